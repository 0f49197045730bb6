"""Room: how much of the foundry's work is asked of the cluster at once.

A task that waits for a processor is demand to an autoscaler, and every pending task costs Ray's
scheduler. So of a thousand stages only as many are handed over as the searches can use; the rest
wait in the foundry, in the order in which they came.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from stillhouse.search.execution.builder import MOST
from stillhouse.search.experiment.schema import Resources

LEAST = 4
"""Stages of a pass; fewer would hardly share it."""


class Room:
    """Places for tasks that run, or wait for a processor.

    There are as many as the drivers say together, or as the cluster has room for now if that is
    more: nodes that somebody else brought are used.

    Args:
        fits: how many tasks of a size run at once on the nodes there are.
    """

    def __init__(self, fits: Callable[[Resources], int]) -> None:
        self._fits = fits
        self._told: dict[str, int] = {}
        self._taken = 0
        self._waiting: deque[tuple[Resources, asyncio.Future[None]]] = deque()

    @property
    def told(self) -> int:
        """How many tasks at once the drivers can use, as they say."""
        return sum(self._told.values())

    def of(self, wish: Resources) -> int:
        """How many tasks of a size there are places for."""
        return max(1, self.told, self._fits(wish))

    def open(self, client: str, most: int) -> None:
        """A driver can use ``most`` tasks at once."""
        self._told[client] = most
        self._admit()

    def close(self, client: str) -> None:
        """A driver wants nothing any more."""
        self._told.pop(client, None)

    @asynccontextmanager
    async def place(self, wish: Resources) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, admitted))
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._taken -= 1
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            wish, admitted = self._waiting[0]
            if not admitted.done():  # else it was cancelled
                if not self._free(wish):
                    return
                self._taken += 1
                admitted.set_result(None)
            self._waiting.popleft()

    def _free(self, wish: Resources) -> bool:
        """Whether one more may be handed over; the cluster is asked only where that decides."""
        return self._taken < max(1, self.told) or self._taken < self._fits(wish)


def places(wish: Resources, cluster: Mapping[str, float]) -> int:
    """How many tasks of a size the processors and GPUs of a cluster have room for at once."""
    room = [cluster.get("CPU", 0.0) / wish.cpu]
    if wish.gpu:
        room.append(cluster.get("GPU", 0.0) / wish.gpu)
    return int(min(room) + 1e-6)


def passes(stages: int, places: int) -> int:
    """How many passes ``stages`` that could be made in one are shared out over.

    As many as there are places for at once, of no fewer than ``LEAST`` stages and no more than
    ``MOST``.
    """
    return max(1, min(places, stages // LEAST), math.ceil(stages / MOST))
