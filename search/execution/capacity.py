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

from stillhouse.search.execution.builder import MAX_BATCH_SIZE
from stillhouse.search.experiment.schema import ResourceSettings

MIN_BATCH_SIZE = 4
"""Stages of a pass; fewer would hardly share it."""


class TaskLimiter:
    """Places for tasks that run, or wait for a processor.

    There are as many as the drivers say together, or as the cluster has room for now if that is
    more: nodes that somebody else brought are used.

    Args:
        fits: how many tasks of a size run at once on the nodes there are.
    """

    def __init__(self, cluster_capacity: Callable[[ResourceSettings], int]) -> None:
        self._cluster_capacity = cluster_capacity
        self._requested: dict[str, int] = {}
        self._num_held = 0
        self._queue: deque[tuple[ResourceSettings, asyncio.Future[None]]] = deque()

    @property
    def num_requested(self) -> int:
        """How many tasks at once the drivers can use, as they say."""
        return sum(self._requested.values())

    def capacity(self, resources: ResourceSettings) -> int:
        """How many tasks of a size there are places for."""
        return max(1, self.num_requested, self._cluster_capacity(resources))

    def register(self, client: str, max_in_flight: int) -> None:
        """A driver can use ``max_in_flight`` tasks at once."""
        self._requested[client] = max_in_flight
        self._grant()

    def unregister(self, client: str) -> None:
        """A driver wants nothing any more."""
        self._requested.pop(client, None)

    @asynccontextmanager
    async def slot(self, resources: ResourceSettings) -> AsyncIterator[None]:
        """Wait for a place, and hold it."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((resources, admitted))
        self._grant()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._num_held -= 1
            self._grant()

    def _grant(self) -> None:
        while self._queue:
            resources, admitted = self._queue[0]
            if not admitted.done():  # else it was cancelled
                if not self._has_capacity(resources):
                    return
                self._num_held += 1
                admitted.set_result(None)
            self._queue.popleft()

    def _has_capacity(self, resources: ResourceSettings) -> bool:
        """Whether one more may be handed over; the cluster is asked only where that decides."""
        return self._num_held < max(
            1, self.num_requested
        ) or self._num_held < self._cluster_capacity(resources)


def capacity(resources: ResourceSettings, available: Mapping[str, float]) -> int:
    """How many tasks of a size the processors and GPUs of a cluster have room for at once."""
    limits = [available.get("CPU", 0.0) / resources.cpu]
    if resources.gpu:
        limits.append(available.get("GPU", 0.0) / resources.gpu)
    return int(min(limits) + 1e-6)


def passes(num_stages: int, num_slots: int) -> int:
    """How many passes ``num_stages`` that could be made in one are shared out over.

    As many as there are places for at once, of no fewer than ``MIN_BATCH_SIZE`` stages and no more
    than ``MAX_BATCH_SIZE``.
    """
    return max(
        1, min(num_slots, num_stages // MIN_BATCH_SIZE), math.ceil(num_stages / MAX_BATCH_SIZE)
    )
