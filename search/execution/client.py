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
from stillhouse.search.core.errors import Lost
from stillhouse.search.execution.scheduler import Foundry, foundry_name
from stillhouse.search.experiment.schema import Resources
from stillhouse.search.monitoring.dispatcher import Announcer
from stillhouse.search.monitoring.events import StageChanged
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.problems import first_line

HIRES = 10
"""How often a foundry is asked for, a second apart, before the cluster counts as lost."""


class Orders:
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
        resources: Resources,
        announce: Announcer,
        hang_after: float | None = None,
        most: int = 1,
    ) -> None:
        self._library = library
        self._resources = resources
        self._announce = announce
        self._hang_after = hang_after
        self._most = most
        self._state: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._flying: set[str] = set()
        self._orders: dict[str, Stage] = {}
        self._client = ray.get_runtime_context().get_job_id()
        self._lost: RuntimeError | None = None
        self._stop = threading.Event()
        self._unheard = False
        self._foundry: Any = None
        self._listener: threading.Thread | None = None

    def _open(self) -> None:
        """The first order hires the foundry; a search without shared stages never needs one."""
        if self._listener is None:
            self._hire_surely()
            self._listener = threading.Thread(target=self._listen, name="foundry", daemon=True)
            self._listener.start()

    def _hire(self) -> None:
        """Find this library's foundry on the cluster, or set one up."""
        here = ray.get_runtime_context().get_node_id()
        actor: Any = ray.remote(num_cpus=0, max_restarts=0)(Foundry)
        foundry = actor.options(
            name=foundry_name(self._library),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_concurrency=1000,
            # Where the driver is: the machines that train may be taken away.
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        ).remote(self._library.uri)
        if foundry != self._foundry:  # of one that was out of reach only, no news is missed
            self._since = ray.get(foundry.listen.remote(self._client))
            self._foundry = foundry

    def _hire_surely(self) -> None:
        """As :meth:`_hire`; one that dies under our hands keeps its name for a moment."""
        for _ in range(HIRES - 1):
            try:
                return self._hire()
            except ray.exceptions.RayError:
                time.sleep(1.0)
        return self._hire()

    def place(self, stages: Iterable[Stage]) -> None:
        """Ask for stages; what is in the library already is announced as reused."""
        missing = []
        for stage in stages:
            if stage.key in self._state:  # what failed once in this search fails all who need it
                continue
            record = self._library.record(stage.key)
            if record is None:
                missing.append(stage)
                self._state[stage.key] = "wanted"
                self._orders[stage.key] = stage
            else:
                self._state[stage.key] = "ready"
                self._announce(StageChanged(stage.key, stage.label, "reused", record=record))
        if missing:
            self._open()
            self._want(missing)

    def _want(self, stages: Sequence[Stage]) -> None:
        wish = (self._client, stages, self._resources, self._hang_after, self._most)
        try:
            ray.get(self._foundry.want.remote(*wish))
        except ray.exceptions.RayActorError:  # the listener tells it, or another, once more
            self._unheard = True

    def ready(self, stages: Iterable[Stage]) -> bool:
        """Whether all of them are in the library.

        Raises:
            RuntimeError: the cluster was lost, or (``Lost``) the library.
        """
        self._check()
        return all(self._state.get(stage.key) == "ready" for stage in stages)

    def failure(self, stages: Iterable[Stage]) -> str:
        """Why one of them cannot be had; empty if all can.

        Raises:
            Lost: the library cannot be used.
        """
        self._check()
        failed = [s for s in stages if self._state.get(s.key) == "failed"]
        return f"{failed[0].label}: {self._reasons[failed[0].key]}" if failed else ""

    @property
    def flying(self) -> int:
        """How many workers make stages, or would if there were room; trials are not counted."""
        ordered = (self._orders.get(key) for key in self._flying)
        return sum(stage.work.workers if stage else 1 for stage in ordered)

    def make(self, stages: Sequence[Stage]) -> dict[str, str]:
        """Have stages made and wait for them; returns key -> reason for those that failed.

        What they rest on is ordered by name too, so that it is announced like every stage.
        """
        self.place(needed for stage in stages for needed in stage.lineage())
        open_keys = {stage.key for stage in stages}
        while any(self._state[key] == "wanted" for key in open_keys):
            self._check()
            time.sleep(0.05)
        return {key: self._reasons[key] for key in open_keys if self._state[key] == "failed"}

    def close(self) -> None:
        """Want nothing any more."""
        self._stop.set()
        if self._listener is None:
            return
        self._listener.join(timeout=10)
        with contextlib.suppress(ray.exceptions.RayError):  # gone already
            ray.get(self._foundry.leave.remote(self._client))

    def _check(self) -> None:
        if self._lost:
            raise self._lost

    def _listen(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(0.1)  # what was told meanwhile is still heard
            try:
                asked = self._foundry.news.remote(self._client, self._since)
                self._since, changes, known = ray.get(asked)
                for change in changes:
                    if change.key in self._state:
                        self._hear(change)
                if (self._unheard or not known) and not stopped:
                    self._replace()
            except ray.exceptions.RayError:
                if not self._stop.is_set():
                    self._replace()
            except Exception as error:  # of who listens: without this thread all would wait on
                self._lose(f"what listens to the search broke: {type(error).__name__}: {error}")
                return

    def _replace(self) -> None:
        """The foundry is gone, was out of reach or has dropped this driver: it, or another, is
        told all that is still wanted."""
        self._unheard = False
        try:
            self._hire_surely()
        except ray.exceptions.RayError as error:
            self._lose(f"the foundry is lost: {first_line(error)}")
            return
        self._flying.clear()
        self._want([s for key, s in self._orders.items() if self._state[key] == "wanted"])

    def _lose(self, why: str) -> None:
        self._lost = RuntimeError(why)
        self._stop.set()

    def _hear(self, change: StageChanged) -> None:
        if change.state in ("queued", "running") and not change.in_trial:
            self._flying.add(change.key)
        else:
            self._flying.discard(change.key)
        if change.state in ("made", "reused"):
            self._state[change.key] = "ready"
        elif change.lost:
            self._lost = Lost("library", change.reason)
        elif change.state == "failed":
            self._state[change.key] = "failed"
            self._reasons[change.key] = change.reason
        self._announce(change)
