"""Publishes the status of a search, so that other machines can read it, too.

There are three copies: in the run's folder (``status.json``), in the library (``status/``), and on
a cluster in the dashboard folder of the driver's node. Each copy is complete and replaced
atomically a few times a minute while the driver lives, which makes it a heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import for_display
from stillhouse.search.core.durable import write_atomically
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.monitoring.events import Event, SearchEnded, SearchStarted
from stillhouse.search.monitoring.needs import NeededKeysRecorder
from stillhouse.search.monitoring.status import SearchStatus
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.problems import first_line

PUBLISH_INTERVAL = 15.0
"""Seconds between two heartbeats."""
NEEDS_INTERVAL = 1.0
"""Seconds until newly needed keys are recorded in the library."""
MAX_MISSED_HEARTBEATS = 3
"""Heartbeats that may be missing before the heartbeat counts as overdue."""
STATUS_FILE = "status.json"
DASHBOARD_PREFIX, DASHBOARD_SUFFIX = "stillhouse-", ".json"
"""Around a run's id in the dashboard folder, where other programs leave files, too."""
MAX_ROWS = 100
"""Largest number of rows of each list that is written; the counts cover all rows."""

Snapshot = Mapping[str, Any]


class MonitoredBackend(Protocol):
    """The execution backend, as far as the publisher uses it."""

    def node_usage(self) -> list[dict[str, Any]]:
        """The resources of each node and their use; empty without a cluster."""

    def dashboard_folder(self) -> Path | None:
        """A folder that the cluster's dashboard shows; None without one."""


class StatusPublisher:
    """An observer; a thread of its own does the writing.

    Args:
        status: gets every event.
        tracking_state: returns the tracker's state: what MLflow lacks, and why.
        earlier_seconds: run time of the search before this launch.
    """

    def __init__(
        self,
        status: SearchStatus,
        folder: RunFolder,
        library: Library,
        tracking_state: Callable[[], Mapping[str, Any]],
        earlier_seconds: float = 0.0,
    ) -> None:
        self._status = status
        self._folder = folder
        self._library = library
        self.needs = NeededKeysRecorder(folder, library)
        self._tracking_state = tracking_state
        self._earlier_seconds = earlier_seconds
        self._status_lock = threading.Lock()
        self._backend_lock = threading.Lock()
        self._backend: MonitoredBackend | None = None
        self._dashboard_folder: Path | None = None
        self._nodes: list[dict[str, Any]] = []
        self._write_errors = ""
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._publish_loop, name="status", daemon=True)

    def __call__(self, event: Event) -> None:
        with self._status_lock:
            self._status(event)
        self.needs(event)
        if isinstance(event, SearchStarted):
            self._thread.start()
        if isinstance(event, SearchEnded):
            self._wake.set()

    @contextlib.contextmanager
    def monitor(self, backend: MonitoredBackend) -> Iterator[None]:
        """Include the backend's nodes, and write to its dashboard folder, while the block runs."""
        self._dashboard_folder = backend.dashboard_folder()
        self._backend = backend
        self._wake.set()
        try:
            yield
        finally:
            with self._backend_lock:  # Ray is not called while it shuts down
                self._backend = None

    def close(self) -> None:
        """Write the final status; returns when it is written, or after a timeout."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * PUBLISH_INTERVAL)

    def _publish_loop(self) -> None:
        while True:
            is_last = self._closing
            self._refresh_nodes_and_write()
            if is_last:
                return
            self._wait_for_next_write()

    def _wait_for_next_write(self) -> None:
        """Wait until the next heartbeat; newly needed keys are recorded meanwhile."""
        deadline = time.monotonic() + PUBLISH_INTERVAL
        while (remaining := deadline - time.monotonic()) > 0 and not self._wake.wait(
            min(remaining, NEEDS_INTERVAL)
        ):
            with contextlib.suppress(OSError, StorageUnavailable):  # the next heartbeat reports it
                self.needs.write()
        self._wake.clear()

    def _refresh_nodes_and_write(self) -> None:
        with self._backend_lock:
            if self._backend is not None:
                with contextlib.suppress(Exception):  # the search itself reports it
                    self._nodes = self._backend.node_usage()
        self.write()

    def write(self) -> None:
        """Write the status without calling the backend, which may never answer."""
        with self._status_lock:
            snapshot = self._snapshot()
        text = json.dumps(snapshot, indent=1, default=str)
        errors = []
        writers: tuple[Callable[[], object], ...] = (
            self.needs.write,
            lambda: self._folder.write(STATUS_FILE, text),
            lambda: self._write_to_dashboard(text),
            lambda: self._library.write_status(self._folder.id, platform.node(), text),
        )
        for write_copy in writers:
            try:
                write_copy()
            except (OSError, StorageUnavailable) as error:
                errors.append(first_line(error))
        self._write_errors = "; ".join(errors)

    def _write_to_dashboard(self, text: str) -> None:
        if self._dashboard_folder is not None:
            path = self._dashboard_folder / f"{DASHBOARD_PREFIX}{self._folder.id}{DASHBOARD_SUFFIX}"
            write_atomically(path, text)

    def _snapshot(self) -> dict[str, Any]:
        status, now = self._status, time.time()
        return {
            "name": self._folder.name,
            "id": self._folder.id,
            "state": status.state,
            "reason": status.reason,
            "at": now,
            "every": PUBLISH_INTERVAL,
            "heard": status.last_event_at,
            "seconds": self._earlier_seconds + now - status.launched_at,
            "seconds_left": status.seconds_left() if status.state == "running" else None,
            "driver": {
                "host": platform.node(),
                "pid": os.getpid(),
                "folder": str(self._folder.path),
            },
            "library": {"place": for_display(self._library.uri), "unwritten": self._write_errors},
            "tracking": dict(self._tracking_state()),
            "nodes": self._nodes,
            **status.plain(MAX_ROWS),
        }


def without_activity(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot without running, queued and waiting work, for a driver that was killed."""
    trials = {**snapshot["trials"], "running": [], "waiting": []}
    no_stages = {"running": 0, "queued": 0, "waiting": 0, "open": [], "unborn": []}
    return {
        **snapshot,
        "seconds_left": None,
        "trials": trials,
        "stages": {**snapshot["stages"], **no_stages},
    }


def heartbeat_overdue(snapshot: Snapshot, now: float) -> float | None:
    """Seconds since a running search's last heartbeat, if the next one is overdue."""
    age = now - float(snapshot["at"])
    overdue = age > MAX_MISSED_HEARTBEATS * float(snapshot["every"])
    return age if snapshot["state"] == "running" and overdue else None
