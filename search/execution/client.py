"""The scheduler client: a driver's requests to the stage scheduler, and their states."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.connection import NAMESPACE
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution.scheduler import StageScheduler, scheduler_actor_name
from stillhouse.search.experiment.schema import ResourceSettings
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import StageChanged
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.problems import first_line

CONNECT_ATTEMPTS = 10
"""Attempts, a second apart, to reach a stage scheduler before the cluster counts as lost."""


class SchedulerClient:
    """One driver's client of the stage scheduler.

    Args:
        library: receives the artifacts.
        resources: of each stage.
        dispatch: receives every event.
        hang_after: seconds without a report after which a stage counts as lost; None: no limit.
        max_in_flight: how many stages at once an autoscaler should find slots for.
    """

    def __init__(
        self,
        library: Library,
        resources: ResourceSettings,
        dispatch: EventDispatcher,
        hang_after: float | None = None,
        max_in_flight: int = 1,
    ) -> None:
        self._library = library
        self._resources = resources
        self._dispatch = dispatch
        self._hang_after = hang_after
        self._max_in_flight = max_in_flight
        self._states: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._in_flight: set[str] = set()
        self._requested: dict[str, Stage] = {}
        self._client_id = ray.get_runtime_context().get_job_id()
        self._error: RuntimeError | None = None
        self._stopped = threading.Event()
        self._request_failed = False
        self._scheduler: Any = None
        self._poll_thread: threading.Thread | None = None

    def _ensure_connected(self) -> None:
        """Connect on the first request: a search without shared stages needs no scheduler."""
        if self._poll_thread is None:
            self._connect_with_retries()
            self._poll_thread = threading.Thread(
                target=self._poll_events, name="stage events", daemon=True
            )
            self._poll_thread.start()

    def _connect(self) -> None:
        """Find or create the actor that schedules the stages of this library."""
        node_id = ray.get_runtime_context().get_node_id()
        actor_class: Any = ray.remote(num_cpus=0, max_restarts=0)(StageScheduler)
        scheduler = actor_class.options(
            name=scheduler_actor_name(self._library),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_concurrency=1000,
            # On the driver's node: other machines may be taken away.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        ).remote(self._library.uri)
        if scheduler != self._scheduler:  # a scheduler out of reach has kept its events
            self._next_event = ray.get(scheduler.subscribe.remote(self._client_id))
            self._scheduler = scheduler

    def _connect_with_retries(self) -> None:
        """Connect, repeatedly: an actor that has just died keeps its name for a moment."""
        for _ in range(CONNECT_ATTEMPTS - 1):
            try:
                return self._connect()
            except ray.exceptions.RayError:
                time.sleep(1.0)
        return self._connect()

    def submit(self, stages: Iterable[Stage]) -> None:
        """Request stages; a stage that is in the library is dispatched as reused."""
        missing = []
        for stage in stages:
            if stage.key in self._states:  # within a search, a failed stage is not tried again
                continue
            record = self._library.record(stage.key)
            if record is None:
                missing.append(stage)
                self._states[stage.key] = "requested"
                self._requested[stage.key] = stage
            else:
                self._states[stage.key] = "built"
                self._dispatch(StageChanged(stage.key, stage.label, "reused", record=record))
        if missing:
            self._ensure_connected()
            self._request(missing)

    def _request(self, stages: Sequence[Stage]) -> None:
        settings = (self._resources, self._hang_after, self._max_in_flight)
        try:
            ray.get(self._scheduler.request.remote(self._client_id, stages, *settings))
        except ray.exceptions.RayActorError:  # the poll thread repeats it
            self._request_failed = True

    def all_built(self, stages: Iterable[Stage]) -> bool:
        """Whether all of them are in the library.

        Raises:
            RuntimeError: the cluster was lost, or (``StorageUnavailable``) the library.
        """
        self._raise_if_lost()
        return all(self._states.get(stage.key) == "built" for stage in stages)

    def failure_reason(self, stages: Iterable[Stage]) -> str:
        """Why one of the stages failed; empty if none has failed.

        Raises:
            RuntimeError: the cluster was lost, or (``StorageUnavailable``) the library.
        """
        self._raise_if_lost()
        failed = [s for s in stages if self._states.get(s.key) == "failed"]
        return f"{failed[0].label}: {self._reasons[failed[0].key]}" if failed else ""

    @property
    def num_in_flight(self) -> int:
        """How many workers build stages or wait for slots, trials excluded."""
        stages = (self._requested.get(key) for key in self._in_flight)
        return sum(stage.operation.workers if stage else 1 for stage in stages)

    def build(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Build stages and wait for them; returns key -> reason for each failed stage.

        Their ancestors are requested too, so that their events are dispatched.
        """
        self.submit(needed for stage in stages for needed in stage.ancestors())
        open_keys = {stage.key for stage in stages}
        while any(self._states[key] == "requested" for key in open_keys):
            self._raise_if_lost()
            time.sleep(0.05)
        return {key: self._reasons[key] for key in open_keys if self._states[key] == "failed"}

    def close(self) -> None:
        """Withdraw all requests."""
        self._stopped.set()
        if self._poll_thread is None:
            return
        self._poll_thread.join(timeout=10)
        with contextlib.suppress(ray.exceptions.RayError):  # the scheduler is gone
            ray.get(self._scheduler.unregister.remote(self._client_id))

    def _raise_if_lost(self) -> None:
        if self._error:
            raise self._error

    def _poll_events(self) -> None:
        is_stopped = False
        while not is_stopped:
            is_stopped = self._stopped.wait(0.1)  # then poll once more for the last events
            try:
                reply = self._scheduler.poll_events.remote(self._client_id, self._next_event)
                self._next_event, changes, is_registered = ray.get(reply)
                for change in changes:
                    if change.key in self._states:
                        self._apply(change)
                if (self._request_failed or not is_registered) and not is_stopped:
                    self._reconnect()
            except ray.exceptions.RayError:
                if not self._stopped.is_set():
                    self._reconnect()
            except Exception as error:  # of a listener: without this thread the search would hang
                self._fail(f"a listener of the search failed: {type(error).__name__}: {error}")
                return

    def _reconnect(self) -> None:
        """Repeat the open requests: the scheduler was lost or out of reach, or evicted us."""
        self._request_failed = False
        try:
            self._connect_with_retries()
        except ray.exceptions.RayError as error:
            self._fail(f"the stage scheduler is lost: {first_line(error)}")
            return
        self._in_flight.clear()
        self._request([s for key, s in self._requested.items() if self._states[key] == "requested"])

    def _fail(self, reason: str) -> None:
        self._error = RuntimeError(reason)
        self._stopped.set()

    def _apply(self, change: StageChanged) -> None:
        if change.state in ("queued", "running") and not change.in_trial:
            self._in_flight.add(change.key)
        else:
            self._in_flight.discard(change.key)
        if change.state in ("made", "reused"):
            self._states[change.key] = "built"
        elif change.storage_unavailable:
            self._error = StorageUnavailable("library", change.reason)
        elif change.state == "failed":
            self._states[change.key] = "failed"
            self._reasons[change.key] = change.reason
        self._dispatch(change)
