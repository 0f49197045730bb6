"""Placement: who makes a stage, a task that a worker takes up or a trial that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import ray

from stillhouse.search.execution.capacity import Room, places
from stillhouse.search.execution.job import Flight
from stillhouse.search.execution.takeover import Takeovers
from stillhouse.search.execution.tasks import Running, start
from stillhouse.search.experiment.schema import Resources

FEWER_AFTER = 600.0
"""Seconds that the workers of a stage wait for room before fewer of them make it."""


class Placement:
    """Finds someone who makes stages, for the foundry.

    A stage of several workers is made by fewer if the cluster stays too small for all of them. Its
    result is the same up to rounding. Some minutes pass first, as nodes may be on their way.

    Args:
        library: where the stages will be.
        fewer_after: seconds until then.
    """

    def __init__(self, library: str, fewer_after: float = FEWER_AFTER) -> None:
        self._library = library
        self._fewer_after = fewer_after
        self._ending: set[asyncio.Task[None]] = set()
        self.room = Room(_slots)
        self.takeovers = Takeovers(_crowded)

    @asynccontextmanager
    async def place(self, flights: Sequence[Flight]) -> AsyncIterator[Running]:
        """Wait until somebody makes the flights' stages in one pass; follow that in the block."""
        async with AsyncExitStack() as held:
            own = asyncio.create_task(self._begin(flights, held))
            with self.takeovers.request(flights) as taken:
                either: set[asyncio.Future[Any]] = {own, taken}
                try:
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if taken.done() or not own.done():
                        await self._withdraw(own)
                if not taken.done():
                    taken.cancel()
                running = await own if taken.cancelled() else taken.result()
                for flight in flights:
                    flight.running = running
                yield running

    async def _begin(self, flights: Sequence[Flight], held: AsyncExitStack) -> Running:
        """Start a task once there is room for it; returns when a worker has taken it up."""
        first = flights[0]
        await held.enter_async_context(self.room.place(first.resources))
        if not any(flight.clients for flight in flights):
            raise RuntimeError("is not wanted any more")
        running = self._start(flights, first.stage.work.workers)
        while not await self._begun(running):
            room = _slots(first.resources)
            if 0 < room < running.workers:
                self._end(running)
                running = self._start(flights, room)
        return running

    async def _begun(self, running: Running) -> bool:
        """Wait until workers take a task up; False if several find no room for a long time."""
        try:
            async with asyncio.timeout(self._fewer_after if running.workers > 1 else None) as limit:
                await running.begin()
        except asyncio.CancelledError:
            self._end(running)
            raise
        except TimeoutError:
            if not limit.expired():  # an error of the stage's own
                raise
            return False
        return True

    def _start(self, flights: Sequence[Flight], workers: int) -> Running:
        first = flights[0]
        stages = [flight.stage for flight in flights]
        running = start(stages, self._library, first.resources, workers)
        if running.workers == 1:  # who leaves may end it before it has begun
            for flight in flights:
                flight.running = running
        return running

    async def _withdraw(self, own: asyncio.Task[Running]) -> None:
        """Have no task make the stages, also if a worker has just taken it up."""
        own.cancel()
        (ended,) = await asyncio.gather(own, return_exceptions=True)
        if isinstance(ended, Running):
            ended.stop()

    def _end(self, running: Running) -> None:
        ending = asyncio.create_task(running.end())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


def _slots(wish: Resources) -> int:
    """How many tasks the nodes that are there run at once."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return places(wish, found)


def _crowded(flight: Flight, trials: int) -> bool:
    """Whether the nodes have too few slots for a flight's workers beside trials that wait."""
    return _slots(flight.resources) - trials < flight.stage.work.workers
