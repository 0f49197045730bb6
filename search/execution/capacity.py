"""Limit how many tasks of a stage scheduler the cluster has at once.

An autoscaler takes a pending task for demand, and every pending task costs Ray's scheduler time.
So the stage scheduler submits only as many tasks as the searches can use. The other stages wait in
its queue, in the order of their requests.
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
"""Stages of a batch; a smaller batch saves little."""


class TaskLimiter:
    """Slots for tasks that run or wait for a processor.

    The number of slots is the sum of the drivers' requests, or the capacity of the cluster if that
    is larger: nodes that are there anyway are used.

    Args:
        cluster_capacity: how many tasks with these resources the present nodes run at once.
    """

    def __init__(self, cluster_capacity: Callable[[ResourceSettings], int]) -> None:
        self._cluster_capacity = cluster_capacity
        self._requested: dict[str, int] = {}
        self._num_held = 0
        self._queue: deque[tuple[ResourceSettings, asyncio.Future[None]]] = deque()

    @property
    def num_requested(self) -> int:
        """The sum of the tasks that the drivers can use at once."""
        return sum(self._requested.values())

    def capacity(self, resources: ResourceSettings) -> int:
        """The number of slots for tasks with these resources."""
        return max(1, self.num_requested, self._cluster_capacity(resources))

    def register(self, client: str, max_in_flight: int) -> None:
        """Set how many tasks a driver can use at once."""
        self._requested[client] = max_in_flight
        self._grant()

    def unregister(self, client: str) -> None:
        """Forget a driver's request."""
        self._requested.pop(client, None)

    @asynccontextmanager
    async def slot(self, resources: ResourceSettings) -> AsyncIterator[None]:
        """Wait for a slot, and keep it while the block runs."""
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
            if not admitted.done():  # otherwise it was cancelled
                if not self._has_capacity(resources):
                    return
                self._num_held += 1
                admitted.set_result(None)
            self._queue.popleft()

    def _has_capacity(self, resources: ResourceSettings) -> bool:
        """Whether a slot is free; asks the cluster only if the requests do not decide it."""
        is_requested = self._num_held < max(1, self.num_requested)
        return is_requested or self._num_held < self._cluster_capacity(resources)


def capacity(resources: ResourceSettings, available: Mapping[str, float]) -> int:
    """How many tasks the CPUs and GPUs of a node or a cluster can run at once.

    Args:
        resources: of one task.
        available: Ray's resources, by their names ``CPU`` and ``GPU``.
    """
    limits = [available.get("CPU", 0.0) / resources.cpu]
    if resources.gpu:
        limits.append(available.get("GPU", 0.0) / resources.gpu)
    return int(min(limits) + 1e-6)


def num_batches(num_stages: int, num_slots: int) -> int:
    """The number of batches for ``num_stages`` stages of one batch key.

    It is the number of slots, limited so that a batch has ``MIN_BATCH_SIZE`` to ``MAX_BATCH_SIZE``
    stages.
    """
    return max(
        1, min(num_slots, num_stages // MIN_BATCH_SIZE), math.ceil(num_stages / MAX_BATCH_SIZE)
    )
