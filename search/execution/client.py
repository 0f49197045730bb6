"""Orders: what one driver wants of the foundry, and how that stands."""

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
"""How often a foundry is asked for, a second apart, before the cluster counts as lost."""


class SchedulerClient:
    """One driver's dealings with the foundry: what it wants, and how that stands.

    Args:
        library: where artifacts are kept.
        resources: what each stage occupies.
        announce: told of every change.
        hang_after: seconds without a report after which a stage counts as lost; none: never.
        most: how many stages at once are worth asking an autoscaler for.
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
        """The first order hires the foundry; a search without shared stages never needs one."""
        if self._poll_thread is None:
            self._connect_with_retries()
            self._poll_thread = threading.Thread(
                target=self._poll_events, name="foundry", daemon=True
            )
            self._poll_thread.start()

    def _connect(self) -> None:
        """Find this library's foundry on the cluster, or set one up."""
        node_id = ray.get_runtime_context().get_node_id()
        actor_class: Any = ray.remote(num_cpus=0, max_restarts=0)(StageScheduler)
        scheduler = actor_class.options(
            name=scheduler_actor_name(self._library),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_concurrency=1000,
            # Where the driver is: the machines that train may be taken away.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        ).remote(self._library.uri)
        if scheduler != self._scheduler:  # of one that was out of reach only, no news is missed
            self._next_event = ray.get(scheduler.subscribe.remote(self._client_id))
            self._scheduler = scheduler

    def _connect_with_retries(self) -> None:
        """As :meth:`_connect`; one that dies under our hands keeps its name for a moment."""
        for _ in range(CONNECT_ATTEMPTS - 1):
            try:
                return self._connect()
            except ray.exceptions.RayError:
                time.sleep(1.0)
        return self._connect()

    def submit(self, stages: Iterable[Stage]) -> None:
        """Ask for stages; what is in the library already is announced as reused."""
        missing = []
        for stage in stages:
            if stage.key in self._states:  # what failed once in this search fails all who need it
                continue
            record = self._library.record(stage.key)
            if record is None:
                missing.append(stage)
                self._states[stage.key] = "wanted"
                self._requested[stage.key] = stage
            else:
                self._states[stage.key] = "ready"
                self._dispatch(StageChanged(stage.key, stage.label, "reused", record=record))
        if missing:
            self._ensure_connected()
            self._request(missing)

    def _request(self, stages: Sequence[Stage]) -> None:
        arguments = (
            self._client_id,
            stages,
            self._resources,
            self._hang_after,
            self._max_in_flight,
        )
        try:
            ray.get(self._scheduler.request.remote(*arguments))
        except ray.exceptions.RayActorError:  # the listener tells it, or another, once more
            self._request_failed = True

    def all_built(self, stages: Iterable[Stage]) -> bool:
        """Whether all of them are in the library.

        Raises:
            RuntimeError: the cluster was lost, or (``StorageUnavailable``) the library.
        """
        self._raise_if_lost()
        return all(self._states.get(stage.key) == "ready" for stage in stages)

    def failure_reason(self, stages: Iterable[Stage]) -> str:
        """Why one of them cannot be had; empty if all can.

        Raises:
            Lost: the library cannot be used.
        """
        self._raise_if_lost()
        failed = [s for s in stages if self._states.get(s.key) == "failed"]
        return f"{failed[0].label}: {self._reasons[failed[0].key]}" if failed else ""

    @property
    def num_in_flight(self) -> int:
        """How many workers make stages, or would if there were room; trials are not counted."""
        stages = (self._requested.get(key) for key in self._in_flight)
        return sum(stage.operation.workers if stage else 1 for stage in stages)

    def build(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Have stages made and wait for them; returns key -> reason for those that failed.

        What they rest on is ordered by name too, so that it is announced like every stage.
        """
        self.submit(needed for stage in stages for needed in stage.ancestors())
        open_keys = {stage.key for stage in stages}
        while any(self._states[key] == "wanted" for key in open_keys):
            self._raise_if_lost()
            time.sleep(0.05)
        return {key: self._reasons[key] for key in open_keys if self._states[key] == "failed"}

    def close(self) -> None:
        """Want nothing any more."""
        self._stopped.set()
        if self._poll_thread is None:
            return
        self._poll_thread.join(timeout=10)
        with contextlib.suppress(ray.exceptions.RayError):  # gone already
            ray.get(self._scheduler.unregister.remote(self._client_id))

    def _raise_if_lost(self) -> None:
        if self._error:
            raise self._error

    def _poll_events(self) -> None:
        is_stopped = False
        while not is_stopped:
            is_stopped = self._stopped.wait(0.1)  # what was told meanwhile is still heard
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
            except Exception as error:  # of who listens: without this thread all would wait on
                self._fail(f"what listens to the search broke: {type(error).__name__}: {error}")
                return

    def _reconnect(self) -> None:
        """The foundry is gone, was out of reach or has dropped this driver: it, or another, is
        told all that is still wanted."""
        self._request_failed = False
        try:
            self._connect_with_retries()
        except ray.exceptions.RayError as error:
            self._fail(f"the foundry is lost: {first_line(error)}")
            return
        self._in_flight.clear()
        self._request([s for key, s in self._requested.items() if self._states[key] == "wanted"])

    def _fail(self, reason: str) -> None:
        self._error = RuntimeError(reason)
        self._stopped.set()

    def _apply(self, change: StageChanged) -> None:
        if change.state in ("queued", "running") and not change.in_trial:
            self._in_flight.add(change.key)
        else:
            self._in_flight.discard(change.key)
        if change.state in ("made", "reused"):
            self._states[change.key] = "ready"
        elif change.storage_unavailable:
            self._error = StorageUnavailable("library", change.reason)
        elif change.state == "failed":
            self._states[change.key] = "failed"
            self._reasons[change.key] = change.reason
        self._dispatch(change)
