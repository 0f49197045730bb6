"""Stages in Ray tasks: start a task, follow its messages, and classify its errors."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from stillhouse.search.execution.builder import build_messages
from stillhouse.search.execution.distributed import WorkerLost, start_distributed_build
from stillhouse.search.execution.failures import is_out_of_memory
from stillhouse.search.execution.failures import reason as reason_of
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.stages.core.stage import EpochMetrics, Stage
from stillhouse.spaces.config.problems import plain_lines


class StageTimeout(RuntimeError):
    """A task sent no message for longer than its limit."""


class TrialLost(Exception):
    """A trial has stopped building a stage: its worker is lost, or it does something else."""


_RETRYABLE = (
    WorkerCrashedError,
    NodeDiedError,
    LocalRayletDiedError,
    ObjectLostError,
    OutOfMemoryError,
    # Other errors of a machine: another machine, or another moment, may do better.
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
    """A submitted task, on ``node`` once it has started.

    ``placement_group`` is the one that Ray Train's workers occupy. With ``in_trial`` a trial does
    the work, in its own slot.
    """

    task: Any
    placement_group: PlacementGroup | None = None
    node: str = ""
    in_trial: bool = False
    num_workers: int = 1

    async def wait_started(self) -> None:
        """Wait until a worker starts the task; ``hang_after`` does not limit this wait."""
        node = await self.next_message()
        if node is None:
            raise RuntimeError("ended without a record")
        self.node = node

    async def next_message(self) -> Any:
        """The task's next message; None after its end."""
        object_ref = await anext(self.task, None)
        return None if object_ref is None else await object_ref

    async def cancel_when_started(self) -> None:
        """Cancel the task even if it has not started.

        The placement group of Train's workers is unknown before they start. If the task were
        cancelled earlier, the group would keep its slots. So this waits for the group.
        """
        if self.num_workers > 1:
            with contextlib.suppress(Exception):
                await self.wait_started()
                message = await self.next_message()
                self.placement_group = message if isinstance(message, PlacementGroup) else None
        self.cancel()

    def cancel(self) -> None:
        """Cancel the task and its workers at once."""
        ray.cancel(self.task, force=True)
        self.release_placement_group()

    def release_placement_group(self) -> None:
        """Free the slots of the placement group: it would exist as long as the driver."""
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
    """Submit a task that builds one stage, or several in one pass.

    Args:
        num_workers: how many workers build a stage together; None: as its settings say.
    """
    first, count = stages[0], len(stages)
    num_workers = num_workers or first.operation.workers
    name = first.label if count == 1 else f"{first.operation.kind} x {count}"
    options = {"num_cpus": resources.cpu, "num_gpus": resources.gpu, "name": name}
    num_threads = max(1, int(resources.cpu))
    if num_workers > 1:  # such a stage is never in a batch with others
        generator = start_distributed_build(first, library_uri, resources, num_workers)
        return StageRun(generator, num_workers=num_workers)
    task: Any = _build_task
    return StageRun(task.options(**options).remote(list(stages), library_uri, num_threads))


@ray.remote(max_retries=0)
def _build_task(
    stages: list[Stage], library_uri: str, num_threads: int
) -> Iterator[str | list[EpochMetrics] | list[Record]]:
    yield current_node_name()  # the task has started: the time limit of messages begins
    torch.set_num_threads(num_threads)
    yield from build_messages(stages, Library(library_uri, must_exist=True), is_draining)


async def stream_reports(stage_run: StageRun, hang_after: float | None) -> AsyncIterator[Any]:
    """The messages of a started task: lists of metrics, and last the list of records.

    Args:
        stage_run: from ``submit_stages``.
        hang_after: seconds without a message after which the task is cancelled; None: no limit.

    Raises:
        StageTimeout: the task sent no message for longer.
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
            if not timeout.expired():  # the stage itself raised it
                raise
            stage_run.cancel()
            raise StageTimeout(f"gave no report for {hang_after:g} s") from None
        if message is None:
            return
        yield message


def is_retryable(error: BaseException) -> bool:
    """Whether the machine, not the program, ended a task: another attempt may succeed."""
    return isinstance(unwrap_task_error(error), _RETRYABLE)


def storage_error_in(error: BaseException) -> StorageUnavailable | None:
    """The error of the library, if that is the cause of ``error``."""
    cause = unwrap_task_error(error)
    return cause if isinstance(cause, StorageUnavailable) else None


def give_up_message(error: BaseException, attempts: int) -> str:
    """Why a stage is not tried again after so many lost attempts, in one line with a remedy."""
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
    """The program's own error in one line, without Ray's wrapper."""
    cause = unwrap_task_error(error)
    if isinstance(cause, RuntimeError) and not is_out_of_memory(cause):
        return next(iter(plain_lines(str(cause))), "no message")
    return reason_of(cause)


def unwrap_task_error(error: BaseException) -> BaseException:
    """The error of the task's program, without Ray's wrapper."""
    return error.cause if isinstance(error, RayTaskError) else error
