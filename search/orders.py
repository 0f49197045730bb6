"""Orders: what one driver wants of the foundry, and how that stands."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import ray

from search.announcer import Announcer
from search.cluster import NAMESPACE
from search.events import StageChanged
from search.foundry import Foundry, foundry_name
from search.library.store import Library
from search.lost import Lost
from search.settings import Resources
from search.stage import Stage


class Orders:
    """One driver's dealings with the foundry: what it wants, and how that stands.

    Args:
        library: where artifacts are kept.
        resources: what each stage occupies.
        announce: told of every change.
    """

    def __init__(self, library: Library, resources: Resources, announce: Announcer) -> None:
        self._library = library
        self._resources = resources
        self._announce = announce
        self._state: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._flying: set[str] = set()
        self._orders: dict[str, Stage] = {}
        self._client = ray.get_runtime_context().get_job_id()
        self._lost: RuntimeError | None = None
        self._stop = threading.Event()
        self._foundry: Any = None
        self._listener: threading.Thread | None = None

    def _open(self) -> None:
        """The first order hires the foundry; a search without shared stages never needs one."""
        if self._listener is None:
            self._hire()
            self._listener = threading.Thread(target=self._listen, name="foundry", daemon=True)
            self._listener.start()

    def _hire(self) -> None:
        """Find this library's foundry on the cluster, or set one up."""
        actor: Any = ray.remote(num_cpus=0, max_restarts=0)(Foundry)
        foundry = actor.options(
            name=foundry_name(self._library),
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_concurrency=1000,
        ).remote(self._library.uri)
        if foundry != self._foundry:  # of one that was out of reach only, no news is missed
            self._since, _ = ray.get(foundry.news.remote(self._client, 0))
            self._foundry = foundry

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
            ray.get(self._foundry.want.remote(self._client, missing, self._resources))

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
        """How many stages are being made, or would be if there were room."""
        return len(self._flying)

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
                self._since, changes = ray.get(asked)
                for change in changes:
                    if change.key in self._state:
                        self._hear(change)
            except ray.exceptions.RayError as error:
                if not self._stop.is_set():
                    self._replace(error)

    def _replace(self, error: Exception) -> None:
        """The foundry is gone or out of reach: it, or another, is told all that is still wanted."""
        try:
            self._hire()
            wanted = [s for key, s in self._orders.items() if self._state[key] == "wanted"]
            self._flying.clear()
            ray.get(self._foundry.want.remote(self._client, wanted, self._resources))
        except ray.exceptions.RayError:
            self._lost = RuntimeError(f"the foundry is lost: {str(error).splitlines()[0]}")
            self._stop.set()

    def _hear(self, change: StageChanged) -> None:
        if change.state in ("queued", "running"):
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
