"""Stages in Ray tasks: started, followed while they report, and known when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RaySystemError,
    RayTaskError,
    RpcError,
    RuntimeEnvSetupError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.placement_group import PlacementGroup, remove_placement_group

from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import this_node
from stillhouse.search.cluster.preemption import leaving
from stillhouse.search.core.errors import Lost
from stillhouse.search.execution.builder import SAVE_EVERY, make, make_together
from stillhouse.search.execution.distributed import LostPartner, make_with_partners
from stillhouse.search.execution.failures import out_of_memory
from stillhouse.search.execution.failures import reason as reason_of
from stillhouse.search.experiment.schema import Resources
from stillhouse.search.stages.core.stage import Report, Stage
from stillhouse.spaces.config.problems import plain_lines

_Yielded = TypeVar("_Yielded")
_Made = TypeVar("_Made")


class Hung(RuntimeError):
    """A task was silent for longer than it may be."""


class LostTrial(Exception):
    """The trial that made a stage does so no more: its worker is lost, or it turned to others."""


_LOST = (
    WorkerCrashedError,
    NodeDiedError,
    LocalRayletDiedError,
    ObjectLostError,
    OutOfMemoryError,
    # What else goes wrong on a machine, and may go right on another or a moment later.
    ObjectStoreFullError,
    OutOfDiskError,
    RaySystemError,
    RpcError,
    RuntimeEnvSetupError,
    TaskUnschedulableError,
    Hung,
    LostPartner,
    LostTrial,
)


@dataclass
class Running:
    """A started task, on ``node`` once it has begun.

    ``group`` is what Train's workers of it occupy together. ``in_trial``: a trial does the work,
    in its own slot.
    """

    task: Any
    group: PlacementGroup | None = None
    node: str = ""
    in_trial: bool = False
    workers: int = 1

    async def begin(self) -> None:
        """Wait until a worker takes the task up. This wait does not count as silence."""
        said = await self.next()
        if said is None:
            raise RuntimeError("ended without a record")
        self.node = said

    async def next(self) -> Any:
        """What the task says next; None after its end."""
        reference = await anext(self.task, None)
        return None if reference is None else await reference

    async def end(self) -> None:
        """End it although it may not have begun.

        The group of Train's workers is not known before they begin. If the task were ended earlier,
        that group would stay behind and take the slots of others, so the end waits for it.
        """
        if self.workers > 1:
            with contextlib.suppress(Exception):
                await self.begin()
                said = await self.next()
                self.group = said if isinstance(said, PlacementGroup) else None
        self.stop()

    def stop(self) -> None:
        """End it, and all that works for it, at once."""
        ray.cancel(self.task, force=True)
        self.release()

    def release(self) -> None:
        """Free what a group held: it outlives those who took it as long as the driver is there."""
        if self.group is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                remove_placement_group(self.group)
            self.group = None


def start(
    stages: Sequence[Stage], library: str, wish: Resources, workers: int | None = None
) -> Running:
    """Have one stage made in a task, or several in one pass; :func:`follow` tells how it goes.

    ``workers`` is how many make it together, if not as many as the stage asks for.
    """
    first, count = stages[0], len(stages)
    workers = workers or first.work.workers
    name = first.label if count == 1 else f"{first.work.kind} x {count}"
    options = {"num_cpus": wish.cpu, "num_gpus": wish.gpu, "name": name}
    threads = max(1, int(wish.cpu))
    if workers > 1:  # such a stage is never made in one pass with others
        made = make_with_partners(first, library, wish, workers)
        return Running(made, workers=workers)
    if count == 1:
        return Running(_make_remotely.options(**options).remote(first, library, threads))
    task: Any = _make_together_remotely
    return Running(task.options(**options).remote(list(stages), library, threads))


@ray.remote(max_retries=0)
def _make_remotely(stage: Stage, library: str, threads: int) -> Iterator[str | Report | Record]:
    yield this_node()  # begun: from here on silence counts
    torch.set_num_threads(threads)
    yield from with_result(make(stage, Library(library, found=True), SAVE_EVERY, leaving))


@ray.remote(max_retries=0)
def _make_together_remotely(
    stages: list[Stage], library: str, threads: int
) -> Iterator[str | list[Report] | list[Record]]:
    yield this_node()
    torch.set_num_threads(threads)
    opened = Library(library, found=True)
    yield from with_result(make_together(stages, opened, SAVE_EVERY, leaving))


def with_result(making: Generator[_Yielded, None, _Made]) -> Iterator[_Yielded | _Made]:
    """What a generator yields, and then what it returns: Ray passes on the former only."""
    made = yield from making
    yield made


async def follow(running: Running, hang_after: float | None) -> AsyncIterator[Any]:
    """What a task says that has begun.

    Args:
        running: from :func:`start`.
        hang_after: seconds of silence after which it is stopped; none: never.

    Raises:
        Hung: it was silent for longer.
    """
    try:
        async for said in _heard(running, hang_after):
            if isinstance(said, PlacementGroup):
                running.group = said
            else:
                yield said
    except Exception:
        running.release()
        raise


async def _heard(running: Running, hang_after: float | None) -> AsyncIterator[Any]:
    while True:
        try:
            async with asyncio.timeout(hang_after) as patience:
                said = await running.next()
        except TimeoutError:
            if not patience.expired():  # an error of the stage's own
                raise
            running.stop()
            raise Hung(f"gave no report for {hang_after:g} s") from None
        if said is None:
            return
        yield said


def is_lost(error: BaseException) -> bool:
    """Whether a task ended by no fault of its program: another attempt may go well."""
    return isinstance(cause_of(error), _LOST)


def lost_place(error: BaseException) -> Lost | None:
    """The library's failure that an error stands for, if it does."""
    cause = cause_of(error)
    return cause if isinstance(cause, Lost) else None


def given_up(error: BaseException, attempts: int) -> str:
    """Why a stage that was lost again and again is not tried any more; one line, with a remedy."""
    cause = cause_of(error)
    if isinstance(cause, Hung):
        return (
            f"{cause}, in each of {attempts} attempts; where a report takes longer, set "
            "run.hang_after"
        )
    if isinstance(cause, OutOfMemoryError):
        return (
            f"its machine ran out of memory in each of {attempts} attempts, and Ray ended it; run "
            "fewer at once (run.concurrent, or more run.resources.cpu for each), or with a "
            "smaller batch_size"
        )
    return f"lost its worker {attempts} times: {reason(error)}"


def reason(error: BaseException) -> str:
    """The program's own error in one line, not Ray's wrapping of it."""
    cause = cause_of(error)
    if isinstance(cause, RuntimeError) and not out_of_memory(cause):
        return next(iter(plain_lines(str(cause))), "no message")
    return reason_of(cause)


def cause_of(error: BaseException) -> BaseException:
    """The error that a task's program raised, if Ray wraps one."""
    return error.cause if isinstance(error, RayTaskError) else error
