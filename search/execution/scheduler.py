"""The stage scheduler: one actor of a cluster that builds each missing stage of a library once.

The named actor occupies no processor and owns the tasks that it submits. A task that a trial
submitted would run in that trial's placement group, and die with it.

Ray's own retries are off, because they lose messages of a generator. The scheduler itself repeats
a stage after a lost worker, from the last saved epoch. It does not repeat a stage after an error
of the program: every driver and trial that waits for the stage gets that error.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError

from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution.builder import MissingInput
from stillhouse.search.execution.capacity import num_batches
from stillhouse.search.execution.job import StageJob, await_parent, mark_exception_retrieved
from stillhouse.search.execution.placement import StagePlacement
from stillhouse.search.execution.takeover import WaitReply
from stillhouse.search.execution.tasks import (
    StageRun,
    give_up_message,
    is_retryable,
    storage_error_in,
    stream_reports,
    task_error_line,
    unwrap_task_error,
)
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.monitoring.events import StageChanged, StageState
from stillhouse.search.stages.core.stage import EpochMetrics, Stage

MAX_RETRIES = 3
BATCH_WINDOW_S = 0.5
"""Seconds in which stages of one batch key are collected."""
CLIENT_TIMEOUT_S = 60.0
"""Seconds without a poll after which a driver counts as gone."""


class StageScheduler:
    """The class of the actor; drivers use it through ``SchedulerClient``."""

    def __init__(self, library_uri: str) -> None:
        self._library_uri = library_uri
        self._library = Library(library_uri, must_exist=True)
        self._jobs: dict[str, StageJob] = {}
        self._events: list[StageChanged] = []
        self._num_dropped_events = 0
        self._acknowledged: dict[str, int] = {}
        self._last_heartbeat: dict[str, float] = {}
        self._placement = StagePlacement(library_uri)
        self._client_settings: dict[str, tuple[ResourceSettings, float | None]] = {}
        self._failures: dict[str, str] = {}
        self._eviction_task: asyncio.Task[None] | None = None
        self._pending_batches: dict[str, list[tuple[StageJob, asyncio.Future[Record]]]] = {}
        self._background_tasks: set[asyncio.Task[None]] = set()

    async def request(
        self,
        client: str,
        stages: list[Stage],
        resources: ResourceSettings,
        hang_after: float | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        """Request stages and all their ancestors; returns at once.

        Args:
            hang_after: seconds without a report after which a stage counts as lost.
            max_in_flight: how many tasks at once the driver can use; None: unchanged.
        """
        self._last_heartbeat[client] = time.monotonic()
        self._client_settings[client] = (resources, hang_after)
        if max_in_flight is not None:
            self._placement.limiter.register(client, max_in_flight)
        self._eviction_task = self._eviction_task or asyncio.create_task(self._evict_clients())
        for stage in stages:
            for needed in stage.ancestors():
                self._failures.pop(needed.key, None)
                job = self._jobs.get(needed.key)
                if job is None:
                    parents = [(p, self._task_of(p)) for p in needed.parents]
                    job = StageJob(needed, resources, hang_after, parents)
                    self._jobs[needed.key] = job
                    job.task = asyncio.create_task(self._run_job(job))
                    job.task.add_done_callback(mark_exception_retrieved)
                elif job.is_completed and needed is stage:  # its event may be older than the driver
                    is_known_client = client in job.clients
                    event_state = job.completed_as if is_known_client else "reused"
                    self._publish_event(stage, event_state, record=self._library.record(stage.key))
                job.clients.add(client)

    async def subscribe(self, client: str) -> int:
        """Register a driver for events from now on; returns the number of past events."""
        self._last_heartbeat[client] = time.monotonic()
        num_events = self._num_dropped_events + len(self._events)
        self._acknowledged.setdefault(client, num_events)
        return num_events

    async def poll_events(self, client: str, since: int) -> tuple[int, list[StageChanged], bool]:
        """The number of events so far, the events from number ``since`` on, and a flag.

        The flag tells whether the driver was registered. A driver that did not poll for long is
        evicted, and must repeat its requests. Events that all drivers know are dropped.
        """
        was_known = client in self._last_heartbeat
        self._last_heartbeat[client] = time.monotonic()
        self._acknowledged[client] = since
        num_acknowledged = min(self._acknowledged.values()) - self._num_dropped_events
        if num_acknowledged > 0:
            del self._events[:num_acknowledged]
            self._num_dropped_events += num_acknowledged
        new_events = self._events[max(0, since - self._num_dropped_events) :]
        return self._num_dropped_events + len(self._events), new_events, was_known

    async def wait_for_stages(
        self, client: str, stages: list[Stage], trial_actor: Any, node: str
    ) -> WaitReply:
        """Called by a trial that waits, in its slot, for stages that are not in the library.

        Returns when all jobs have ended, when one has failed, or when the trial has to build
        stages itself (see ``stillhouse.search.execution.takeover``). Stages that were built and
        lost since are built again.
        """
        for stage in stages:
            if failure := self._failures.get(stage.key):
                return WaitReply(failure=f"{stage.label}: {failure}")
        await self._rerequest_missing(client, stages)
        jobs = [self._jobs[stage.key] for stage in stages if stage.key in self._jobs]
        keys = {needed.key for job in jobs for needed in job.stage.ancestors()}
        jobs_done = asyncio.create_task(_wait_for_jobs(jobs))
        actor_freed = asyncio.create_task(_wait_until_actor_free(trial_actor))
        with self._placement.takeovers.offer(client, keys, node) as takeover:
            futures: set[asyncio.Future[Any]] = {jobs_done, actor_freed, takeover}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        jobs_done.cancel()
        if takeover.done():
            reply = takeover.result()
            actor_freed.add_done_callback(lambda _: self._placement.takeovers.cancel(reply.ticket))
            self._hold_task(actor_freed)
            return reply
        actor_freed.cancel()
        return WaitReply(failure=next(filter(None, (job.failure_reason() for job in jobs)), ""))

    async def receive_report(self, ticket: str, message: Any) -> bool:
        """Pass on a trial's message about the stages it builds; False if it must stop."""
        return self._placement.takeovers.receive_report(ticket, message)

    async def unregister(self, client: str) -> None:
        """Remove a driver, and cancel the jobs that no other driver has requested."""
        self._last_heartbeat.pop(client, None)
        self._acknowledged.pop(client, None)
        self._client_settings.pop(client, None)
        self._placement.limiter.unregister(client)
        for job in self._jobs.values():
            job.clients.discard(client)
        for key, job in list(self._jobs.items()):
            if not job.clients:
                self._jobs.pop(key)
                if job.task is not None and not job.task.done():
                    job.task.cancel()
                if job.stage_run is not None and not any(other.clients for other in job.batch):
                    job.stage_run.cancel()

    async def _run_job(self, job: StageJob) -> Record:
        stage = job.stage
        try:
            for parent, task in job.parent_tasks:
                await await_parent(parent, task)
            self._publish_event(stage, "queued")
            existing = self._library.record(stage.key)
            if existing is not None:
                self._publish_event(stage, "reused", record=existing)
                return existing
            run = self._join_batch if stage.batch_key else self._run_with_retries
            record = await run(job)
        except Exception as error:
            self._jobs.pop(stage.key, None)  # so that a new request makes a new attempt
            unavailable = storage_error_in(error)
            message = unavailable.problem.message if unavailable else task_error_line(error)
            if not unavailable:
                self._failures[stage.key] = message
            self._publish_event(
                stage, "failed", reason=message, is_storage_lost=unavailable is not None
            )
            raise
        job.completed_as = "made"
        self._publish_event(stage, "made", record=record)
        return record

    def _task_of(self, stage: Stage) -> asyncio.Task[Record]:
        task = self._jobs[stage.key].task
        assert task is not None
        return task

    async def _run_with_retries(self, job: StageJob) -> Record:
        num_failures = last_epoch = job.furthest_epoch = 0
        while True:
            try:
                (record,) = await self._run_once((job,))
                return record
            except Exception as error:
                cause = unwrap_task_error(error)
                if isinstance(cause, MissingInput):
                    await self._rebuild_parent(job, cause.key)
                    continue
                if not is_retryable(error):
                    raise
                # Only failures without progress count: a long stage may lose many machines.
                num_failures = 1 if job.furthest_epoch > last_epoch else num_failures + 1
                last_epoch = job.furthest_epoch
                if num_failures > MAX_RETRIES:
                    raise RuntimeError(give_up_message(error, num_failures)) from None
                self._publish_event(job.stage, "queued")
                if isinstance(error, OutOfMemoryError):
                    await asyncio.sleep(2.0**num_failures)  # other tasks may end meanwhile

    async def _run_once(self, jobs: tuple[StageJob, ...]) -> list[Record]:
        """Have one task or trial build the stages of the jobs in one pass."""
        async with self._placement.run(jobs) as stage_run:
            self._publish_running(jobs, [{} for _ in jobs], stage_run)
            async for messages in stream_reports(stage_run, jobs[0].hang_after):
                if messages and isinstance(messages[0], Record):
                    return list(messages)
                self._publish_running(jobs, messages, stage_run)
        raise RuntimeError("ended without a record")

    async def _join_batch(self, job: StageJob) -> Record:
        """Build a stage in one pass with the stages of its batch key that arrive soon."""
        batch_key = job.stage.batch_key
        result: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        if batch_key not in self._pending_batches:
            self._pending_batches[batch_key] = []
            self._hold_task(asyncio.create_task(self._dispatch_batches(batch_key)))
        self._pending_batches[batch_key].append((job, result))
        return await result

    async def _dispatch_batches(self, batch_key: str) -> None:
        await asyncio.sleep(BATCH_WINDOW_S)
        members = [each for each in self._pending_batches.pop(batch_key) if not each[1].done()]
        if not members:
            return
        num_slots = self._placement.limiter.capacity(members[0][0].resources)
        count = num_batches(len(members), num_slots)
        for batch in [members[i::count] for i in range(count)]:
            self._hold_task(asyncio.create_task(self._run_batch_or_each(batch)))

    def _hold_task(self, task: asyncio.Task[None]) -> None:
        """Keep a reference to a task that nobody awaits: asyncio does not."""
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)

    async def _run_batch_or_each(
        self, members: list[tuple[StageJob, asyncio.Future[Record]]]
    ) -> None:
        """Build stages in one task; if that fails, build each one alone."""
        jobs = tuple(job for job, _ in members)
        records: list[Record] = []
        for _ in range(MAX_RETRIES if len(members) > 1 else 0):
            for job in jobs:
                job.batch = jobs
            try:
                records = await self._run_once(jobs)
                break
            except Exception as error:
                if unavailable := storage_error_in(error):  # each one alone would fail too
                    for _, result in members:
                        if not result.done():
                            result.set_exception(unavailable)
                is_unrequested = all(result.done() for _, result in members)
                if is_unrequested or not is_retryable(error):
                    break  # alone, each stage reports its own error
                for job in jobs:
                    self._publish_event(job.stage, "queued")
        for i, (job, result) in enumerate(members):
            job.batch = ()
            if result.done():  # its drivers have left
                continue
            try:
                record = records[i] if records else await self._run_with_retries(job)
            except Exception as error:
                if not result.done():
                    result.set_exception(error)
            else:
                if not result.done():
                    result.set_result(record)

    async def _rerequest_missing(self, client: str, stages: Sequence[Stage]) -> None:
        """Request stages that a known driver's trial misses although they were built before."""
        completed = [s for s in stages if s.key not in self._jobs or self._jobs[s.key].is_completed]
        if completed and client in self._client_settings:
            for stage in completed:
                self._jobs.pop(stage.key, None)
            self._library = Library(self._library_uri, must_exist=True)
            await self.request(client, completed, *self._client_settings[client])

    async def _rebuild_parent(self, job: StageJob, key: str) -> None:
        """Build a damaged or removed parent of a job again."""
        parents = [stage for stage in job.stage.ancestors() if stage.key == key]
        self._jobs.pop(key, None)
        self._library = Library(self._library_uri, must_exist=True)
        for client in tuple(job.clients):
            await self.request(client, parents, job.resources, job.hang_after)
        for stage in parents:
            await await_parent(stage, self._task_of(stage))

    async def _evict_clients(self) -> None:
        """Evict drivers that no longer poll; exit when no driver is left."""
        while True:
            await asyncio.sleep(CLIENT_TIMEOUT_S / 4)
            now = time.monotonic()
            for client, last_heartbeat in list(self._last_heartbeat.items()):
                if now - last_heartbeat > CLIENT_TIMEOUT_S:
                    await self.unregister(client)
            if not self._last_heartbeat:
                ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _publish_running(
        self, jobs: Sequence[StageJob], reports: Sequence[EpochMetrics], stage_run: StageRun
    ) -> None:
        for job, report in zip(jobs, reports, strict=True):
            epoch = int(report.get("epoch", 0))
            job.furthest_epoch = max(job.furthest_epoch, epoch)
            self._publish_event(job.stage, "running", epoch, stage_run=stage_run)

    def _publish_event(
        self,
        stage: Stage,
        state: StageState,
        epoch: int = 0,
        record: Record | None = None,
        reason: str = "",
        is_storage_lost: bool = False,
        stage_run: StageRun | None = None,
    ) -> None:
        node, in_trial = (stage_run.node, stage_run.in_trial) if stage_run else ("", False)
        event_args = (stage.key, stage.label, state, epoch, stage.operation.epochs)
        self._events.append(
            StageChanged(*event_args, record, reason, node, is_storage_lost, in_trial)
        )


def scheduler_actor_name(library: Library) -> str:
    """The actor's name on a cluster; it is unique to the library."""
    return f"stage-scheduler-{hashlib.sha256(library.uri.encode()).hexdigest()[:16]}"


async def _wait_for_jobs(jobs: Sequence[StageJob]) -> None:
    """Return when all jobs have ended, or one has failed."""
    if tasks := [job.task for job in jobs if job.task is not None]:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)


async def _wait_until_actor_free(trial_actor: Any) -> None:
    """Return when a trial's actor is lost, or has finished its current call."""
    with contextlib.suppress(ray.exceptions.RayError):
        await trial_actor.__ray_ready__.remote()
