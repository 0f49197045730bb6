"""A flight: one stage on its way, as the foundry keeps it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from stillhouse.search.artifacts.record import Record
from stillhouse.search.execution.tasks import Running, lost_place, reason
from stillhouse.search.experiment.schema import Resources
from stillhouse.search.stages.core.stage import Stage


@dataclass(eq=False)
class Flight:
    """One stage on its way; ``clients`` are the drivers that want it.

    ``parents`` are the tasks of the stages it rests on, held here because a flight that failed is
    forgotten by name.
    """

    stage: Stage
    resources: Resources
    hang_after: float | None
    parents: list[tuple[Stage, asyncio.Task[Record]]]
    clients: set[str] = field(default_factory=set)
    task: asyncio.Task[Record] | None = None
    running: Running | None = None
    reached: int = 0
    """The furthest epoch that was reported, in any attempt."""
    companions: tuple[Flight, ...] = ()
    """Who is made by the same running task."""
    landed_as: Literal["made", "reused"] = "reused"

    @property
    def landed(self) -> bool:
        """Whether the stage was made, or found."""
        task = self.task
        return task is not None and task.done() and not task.cancelled() and not task.exception()

    def failure(self) -> str:
        """Why the stage cannot be had, in one line; empty while it may be, or if it is there.

        A library that cannot be used is no failure of the stage.
        """
        task = self.task
        if task is None or not task.done() or task.cancelled():
            return ""
        error = task.exception()
        if error is None or lost_place(error):
            return ""
        return f"{self.stage.label}: {reason(error)}"


async def landing(stage: Stage, task: asyncio.Task[Record]) -> None:
    """Wait for a stage that another needs.

    Raises:
        RuntimeError: it failed.
        Lost: the library cannot be used.
    """
    try:
        await asyncio.shield(task)
    except Exception as error:
        if lost := lost_place(error):
            raise lost from None
        raise RuntimeError(f"{stage.label}, which it needs, failed: {reason(error)}") from None


def seen(task: asyncio.Task[Record]) -> None:
    """A failure is told as news; asyncio need not warn that nobody awaited it."""
    if not task.cancelled():
        task.exception()
