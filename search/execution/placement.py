"""Placement: decide whether a task or a waiting trial builds a stage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import ray

from stillhouse.search.execution.capacity import TaskLimiter, capacity
from stillhouse.search.execution.job import StageJob
from stillhouse.search.execution.takeover import TakeoverMatcher
from stillhouse.search.execution.tasks import StageRun, submit_stages
from stillhouse.search.experiment.schema import ResourceSettings

SHRINK_AFTER_S = 600.0
"""Seconds that the workers of a stage wait for slots before fewer workers build it."""


class StagePlacement:
    """Finds a task or a trial that builds the stages of the scheduler.

    Fewer workers build a distributed stage if the cluster stays too small for all of them. The
    result is the same up to rounding. Before that, new nodes get some minutes to join.

    Args:
        library: address of the library.
        shrink_after: seconds until fewer workers build a stage.
    """

    def __init__(self, library: str, shrink_after: float = SHRINK_AFTER_S) -> None:
        self._library = library
        self._shrink_after = shrink_after
        self._cancellations: set[asyncio.Task[None]] = set()
        self.limiter = TaskLimiter(_cluster_slots)
        self.takeovers = TakeoverMatcher(_lacks_slots)

    @asynccontextmanager
    async def run(self, jobs: Sequence[StageJob]) -> AsyncIterator[StageRun]:
        """Wait until a task or a trial starts the jobs' stages; yields that run."""
        async with AsyncExitStack() as slot_stack:
            submission = asyncio.create_task(self._submit_when_free(jobs, slot_stack))
            with self.takeovers.request(jobs) as takeover:
                candidates: set[asyncio.Future[Any]] = {submission, takeover}
                try:
                    await asyncio.wait(candidates, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if takeover.done() or not submission.done():
                        await self._withdraw_submission(submission)
                if not takeover.done():
                    takeover.cancel()
                stage_run = await submission if takeover.cancelled() else takeover.result()
                for job in jobs:
                    job.stage_run = stage_run
                yield stage_run

    async def _submit_when_free(
        self, jobs: Sequence[StageJob], slot_stack: AsyncExitStack
    ) -> StageRun:
        """Submit a task once a slot is free; returns when a worker has started it."""
        job = jobs[0]
        await slot_stack.enter_async_context(self.limiter.slot(job.resources))
        if not any(other.clients for other in jobs):
            raise RuntimeError("is not requested any more")
        stage_run = self._submit(jobs, job.stage.operation.workers)
        while not await self._wait_started(stage_run):
            num_slots = _cluster_slots(job.resources)
            if 0 < num_slots < stage_run.num_workers:
                self._cancel_in_background(stage_run)
                stage_run = self._submit(jobs, num_slots)
        return stage_run

    async def _wait_started(self, stage_run: StageRun) -> bool:
        """Wait until workers start a task; False if several workers find no slots for long."""
        shrink_after = self._shrink_after if stage_run.num_workers > 1 else None
        try:
            async with asyncio.timeout(shrink_after) as timeout:
                await stage_run.wait_started()
        except asyncio.CancelledError:
            self._cancel_in_background(stage_run)
            raise
        except TimeoutError:
            if not timeout.expired():  # the stage itself raised it
                raise
            return False
        return True

    def _submit(self, jobs: Sequence[StageJob], num_workers: int) -> StageRun:
        first_job = jobs[0]
        stages = [job.stage for job in jobs]
        stage_run = submit_stages(stages, self._library, first_job.resources, num_workers)
        if stage_run.num_workers == 1:  # a driver that leaves may cancel it before it starts
            for job in jobs:
                job.stage_run = stage_run
        return stage_run

    async def _withdraw_submission(self, submission: asyncio.Task[StageRun]) -> None:
        """Cancel the task, even if a worker has just started it."""
        submission.cancel()
        (outcome,) = await asyncio.gather(submission, return_exceptions=True)
        if isinstance(outcome, StageRun):
            outcome.cancel()

    def _cancel_in_background(self, stage_run: StageRun) -> None:
        cancellation = asyncio.create_task(stage_run.cancel_when_started())
        self._cancellations.add(cancellation)
        cancellation.add_done_callback(self._cancellations.discard)


def _cluster_slots(resources: ResourceSettings) -> int:
    """How many tasks the present nodes run at once."""
    cluster: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return capacity(resources, cluster)


def _lacks_slots(job: StageJob, num_waiting_trials: int) -> bool:
    """Whether the slots do not suffice for the waiting trials and the job's workers."""
    return _cluster_slots(job.resources) - num_waiting_trials < job.stage.operation.workers
