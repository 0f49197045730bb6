"""A flight: one stage on its way, as the foundry keeps it."""

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
    """One stage on its way; ``clients`` are the drivers that want it.

    ``parent_tasks`` are the tasks of the stages it rests on, held here because a flight that failed
    is forgotten by name.
    """

    stage: Stage
    resources: ResourceSettings
    hang_after: float | None
    parent_tasks: list[tuple[Stage, asyncio.Task[Record]]]
    clients: set[str] = field(default_factory=set)
    task: asyncio.Task[Record] | None = None
    stage_run: StageRun | None = None
    furthest_epoch: int = 0
    """The furthest epoch that was reported, in any attempt."""
    batch: tuple[StageJob, ...] = ()
    """Who is made by the same running task."""
    completed_as: Literal["made", "reused"] = "reused"

    @property
    def is_completed(self) -> bool:
        """Whether the stage was made, or found."""
        task = self.task
        return task is not None and task.done() and not task.cancelled() and not task.exception()

    def failure_reason(self) -> str:
        """Why the stage cannot be had, in one line; empty while it may be, or if it is there.

        A library that cannot be used is no failure of the stage.
        """
        task = self.task
        if task is None or not task.done() or task.cancelled():
            return ""
        error = task.exception()
        if error is None or storage_error_in(error):
            return ""
        return f"{self.stage.label}: {task_error_line(error)}"


async def await_parent(stage: Stage, task: asyncio.Task[Record]) -> None:
    """Wait for a stage that another needs.

    Raises:
        RuntimeError: it failed.
        Lost: the library cannot be used.
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
    """A failure is told as news; asyncio need not warn that nobody awaited it."""
    if not task.cancelled():
        task.exception()
