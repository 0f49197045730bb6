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
from stillhouse.search.cluster.connection import current_node_name
from stillhouse.search.cluster.preemption import is_draining
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution.builder import SAVE_INTERVAL_S, build_batch, build_stage
from stillhouse.search.execution.distributed import WorkerLost, start_distributed_build
from stillhouse.search.execution.failures import is_out_of_memory
from stillhouse.search.execution.failures import reason as reason_of
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.stages.core.stage import EpochMetrics, Stage
from stillhouse.spaces.config.problems import plain_lines

_YieldT = TypeVar("_YieldT")
_ReturnT = TypeVar("_ReturnT")


class StageTimeout(RuntimeError):
    """A task was silent for longer than it may be."""


class TrialLost(Exception):
    """The trial that made a stage does so no more: its worker is lost, or it turned to others."""


_RETRYABLE = (
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
    StageTimeout,
    WorkerLost,
    TrialLost,
)


@dataclass
class StageRun:
    """A started task, on ``node`` once it has begun.

    ``placement_group`` is what Train's workers of it occupy together. ``in_trial``: a trial does
    the work, in its own slot.
    """

    task: Any
    placement_group: PlacementGroup | None = None
    node: str = ""
    in_trial: bool = False
    num_workers: int = 1

    async def wait_started(self) -> None:
        """Wait until a worker takes the task up. This wait does not count as silence."""
        node = await self.next_message()
        if node is None:
            raise RuntimeError("ended without a record")
        self.node = node

    async def next_message(self) -> Any:
        """What the task says next; None after its end."""
        object_ref = await anext(self.task, None)
        return None if object_ref is None else await object_ref

    async def cancel_when_started(self) -> None:
        """End it although it may not have begun.

        The group of Train's workers is not known before they begin. If the task were ended earlier,
        that group would stay behind and take the slots of others, so the end waits for it.
        """
        if self.num_workers > 1:
            with contextlib.suppress(Exception):
                await self.wait_started()
                message = await self.next_message()
                self.placement_group = message if isinstance(message, PlacementGroup) else None
        self.cancel()

    def cancel(self) -> None:
        """End it, and all that works for it, at once."""
        ray.cancel(self.task, force=True)
        self.release_placement_group()

    def release_placement_group(self) -> None:
        """Free what a group held: it outlives those who took it as long as the driver is there."""
        if self.placement_group is not None:
            with contextlib.suppress(ray.exceptions.RayError):
                remove_placement_group(self.placement_group)
            self.placement_group = None


def submit_stages(
    stages: Sequence[Stage],
    library_uri: str,
    resources: ResourceSettings,
    num_workers: int | None = None,
) -> StageRun:
    """Have one stage made in a task, or several in one pass; :func:`stream_reports` tells how it
    goes.

    ``num_workers`` is how many make it together, if not as many as the stage asks for.
    """
    first, count = stages[0], len(stages)
    num_workers = num_workers or first.operation.workers
    name = first.label if count == 1 else f"{first.operation.kind} x {count}"
    options = {"num_cpus": resources.cpu, "num_gpus": resources.gpu, "name": name}
    num_threads = max(1, int(resources.cpu))
    if num_workers > 1:  # such a stage is never made in one pass with others
        generator = start_distributed_build(first, library_uri, resources, num_workers)
        return StageRun(generator, num_workers=num_workers)
    if count == 1:
        return StageRun(
            _build_stage_task.options(**options).remote(first, library_uri, num_threads)
        )
    task: Any = _build_batch_task
    return StageRun(task.options(**options).remote(list(stages), library_uri, num_threads))


@ray.remote(max_retries=0)
def _build_stage_task(
    stage: Stage, library_uri: str, num_threads: int
) -> Iterator[str | EpochMetrics | Record]:
    yield current_node_name()  # begun: from here on silence counts
    torch.set_num_threads(num_threads)
    yield from yield_with_result(
        build_stage(stage, Library(library_uri, must_exist=True), SAVE_INTERVAL_S, is_draining)
    )


@ray.remote(max_retries=0)
def _build_batch_task(
    stages: list[Stage], library_uri: str, num_threads: int
) -> Iterator[str | list[EpochMetrics] | list[Record]]:
    yield current_node_name()
    torch.set_num_threads(num_threads)
    library = Library(library_uri, must_exist=True)
    yield from yield_with_result(build_batch(stages, library, SAVE_INTERVAL_S, is_draining))


def yield_with_result(build: Generator[_YieldT, None, _ReturnT]) -> Iterator[_YieldT | _ReturnT]:
    """What a generator yields, and then what it returns: Ray passes on the former only."""
    result = yield from build
    yield result


async def stream_reports(stage_run: StageRun, hang_after: float | None) -> AsyncIterator[Any]:
    """What a task says that has begun.

    Args:
        running: from :func:`submit_stages`.
        hang_after: seconds of silence after which it is stopped; none: never.

    Raises:
        Hung: it was silent for longer.
    """
    try:
        async for message in _messages(stage_run, hang_after):
            if isinstance(message, PlacementGroup):
                stage_run.placement_group = message
            else:
                yield message
    except Exception:
        stage_run.release_placement_group()
        raise


async def _messages(stage_run: StageRun, hang_after: float | None) -> AsyncIterator[Any]:
    while True:
        try:
            async with asyncio.timeout(hang_after) as timeout:
                message = await stage_run.next_message()
        except TimeoutError:
            if not timeout.expired():  # an error of the stage's own
                raise
            stage_run.cancel()
            raise StageTimeout(f"gave no report for {hang_after:g} s") from None
        if message is None:
            return
        yield message


def is_retryable(error: BaseException) -> bool:
    """Whether a task ended by no fault of its program: another attempt may go well."""
    return isinstance(unwrap_task_error(error), _RETRYABLE)


def storage_error_in(error: BaseException) -> StorageUnavailable | None:
    """The library's failure that an error stands for, if it does."""
    cause = unwrap_task_error(error)
    return cause if isinstance(cause, StorageUnavailable) else None


def give_up_message(error: BaseException, attempts: int) -> str:
    """Why a stage that was lost again and again is not tried any more; one line, with a remedy."""
    cause = unwrap_task_error(error)
    if isinstance(cause, StageTimeout):
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
    return f"lost its worker {attempts} times: {task_error_line(error)}"


def task_error_line(error: BaseException) -> str:
    """The program's own error in one line, not Ray's wrapping of it."""
    cause = unwrap_task_error(error)
    if isinstance(cause, RuntimeError) and not is_out_of_memory(cause):
        return next(iter(plain_lines(str(cause))), "no message")
    return reason_of(cause)


def unwrap_task_error(error: BaseException) -> BaseException:
    """The error that a task's program raised, if Ray wraps one."""
    return error.cause if isinstance(error, RayTaskError) else error
