"""A job: the state of one requested stage in the stage scheduler."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from stillhouse.search.artifacts.record import Record
from stillhouse.search.execution.tasks import StageRun, storage_error_in, task_error_line
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.stages.core.stage import Stage


@dataclass(eq=False)
class StageJob:
    """One requested stage; ``clients`` are the drivers that have requested it.

    ``parent_tasks`` are the tasks of its parents. The job keeps them, because the scheduler forgets
    a job that failed.
    """

    stage: Stage
    resources: ResourceSettings
    hang_after: float | None
    parent_tasks: list[tuple[Stage, asyncio.Task[Record]]]
    clients: set[str] = field(default_factory=set)
    task: asyncio.Task[Record] | None = None
    stage_run: StageRun | None = None
    furthest_epoch: int = 0
    """The highest epoch that an attempt has reported, in the present batch or alone."""
    batch: tuple[StageJob, ...] = ()
    """The jobs that the same running task builds."""
    completed_as: Literal["made", "reused"] = "reused"

    @property
    def is_completed(self) -> bool:
        """Whether the stage was built, or was in the library."""
        task = self.task
        return task is not None and task.done() and not task.cancelled() and not task.exception()

    def failure_reason(self) -> str:
        """Why the stage failed, in one line; empty if it has not failed.

        An error of the library does not count as a failure of the stage.
        """
        task = self.task
        if task is None or not task.done() or task.cancelled():
            return ""
        error = task.exception()
        if error is None or storage_error_in(error):
            return ""
        return f"{self.stage.label}: {task_error_line(error)}"


async def await_parent(stage: Stage, task: asyncio.Task[Record]) -> None:
    """Wait for a parent of another stage.

    Raises:
        RuntimeError: the parent failed.
        StorageUnavailable: the library cannot be used.
    """
    try:
        await asyncio.shield(task)
    except Exception as error:
        if unavailable := storage_error_in(error):
            raise unavailable from None
        raise RuntimeError(
            f"{stage.label}, which it needs, failed: {task_error_line(error)}"
        ) from None


def mark_exception_retrieved(task: asyncio.Task[Record]) -> None:
    """Suppress asyncio's warning about an exception that nobody awaits: an event reports it."""
    if not task.cancelled():
        task.exception()
