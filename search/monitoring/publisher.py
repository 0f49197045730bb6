"""The bulletin: how a search stands, written where others look, also from other machines.

Into the run's folder (``status.json``), into the library (``status/``), which any machine that
reaches the library reads, and on a cluster among the logs of the driver's node, which Ray's
dashboard shows. Each copy holds everything, is whole or absent, and is written anew a few times a
minute as long as the driver lives: from a killed one no more sign of life comes.
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
from stillhouse.search.core.addresses import shown
from stillhouse.search.core.durable import write_whole
from stillhouse.search.core.errors import Lost
from stillhouse.search.monitoring.events import Event, SearchEnded, SearchStarted
from stillhouse.search.monitoring.needs import Needs
from stillhouse.search.monitoring.status import Standing
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.spaces.config.problems import first_line

EVERY = 15.0
"""Seconds between two signs of life."""
SOON = 1.0
"""Seconds until keys that a search newly needs are noted in its library."""
PATIENCE = 3
"""Signs of life that may be missing before a driver counts as silent."""
FILE = "status.json"
BEFORE, BEHIND = "stillhouse-", ".json"
"""Around a run's id on a board, where other programs leave files as well."""
SHOWN = 100
"""Rows of each list that are written; all are counted."""

Snapshot = Mapping[str, Any]


class Watched(Protocol):
    """A workshop as the bulletin sees it."""

    def nodes(self) -> list[dict[str, Any]]:
        """What each node has and what of it is taken; none without a cluster."""

    def board(self) -> Path | None:
        """A folder that the cluster's dashboard shows; None without one."""


class Bulletin:
    """An observer; a thread of its own does the writing.

    Args:
        standing: told of every event.
        tracking: what MLflow lacks and why, as the tracker's ``state`` tells it.
        earlier: seconds that the search took before this launch.
    """

    def __init__(
        self,
        standing: Standing,
        folder: RunFolder,
        library: Library,
        tracking: Callable[[], Mapping[str, Any]],
        earlier: float = 0.0,
    ) -> None:
        self._standing = standing
        self._folder = folder
        self._library = library
        self.needs = Needs(folder, library)
        self._tracking = tracking
        self._earlier = earlier
        self._guard = threading.Lock()
        self._looking = threading.Lock()
        self._watched: Watched | None = None
        self._board: Path | None = None
        self._nodes: list[dict[str, Any]] = []
        self._unwritten = ""
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="bulletin", daemon=True)

    def __call__(self, event: Event) -> None:
        with self._guard:
            self._standing(event)
        self.needs(event)
        if isinstance(event, SearchStarted):
            self._thread.start()
        if isinstance(event, SearchEnded):
            self._wake.set()

    @contextlib.contextmanager
    def watching(self, workshop: Watched) -> Iterator[None]:
        """Tell of the workshop's nodes, and on its board, while the block runs."""
        self._board = workshop.board()
        self._watched = workshop
        self._wake.set()
        try:
            yield
        finally:
            with self._looking:  # Ray must not be asked while it is shut down
                self._watched = None

    def close(self) -> None:
        """Write how it ended; returns when that is done, or takes too long."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * EVERY)

    def _work(self) -> None:
        while True:
            last = self._closing
            self._write()
            if last:
                return
            self._rest()

    def _rest(self) -> None:
        """Until the next sign of life is due; what the search newly needs is noted meanwhile."""
        until = time.monotonic() + EVERY
        while (left := until - time.monotonic()) > 0 and not self._wake.wait(min(left, SOON)):
            with contextlib.suppress(OSError, Lost):  # told with the next sign of life
                self.needs.write()
        self._wake.clear()

    def _write(self) -> None:
        with self._looking:
            if self._watched is not None:
                with contextlib.suppress(Exception):  # the search itself says what is wrong
                    self._nodes = self._watched.nodes()
        self.write()

    def write(self) -> None:
        """Write how it stands, without a question to the workshop, which may never answer."""
        with self._guard:
            told = self._told()
        text = json.dumps(told, indent=1, default=str)
        troubles = []
        for write in (self._to_needs, self._to_folder, self._to_board, self._to_library):
            try:
                write(text)
            except (OSError, Lost) as error:
                troubles.append(first_line(error))
        self._unwritten = "; ".join(troubles)

    def _to_needs(self, _: str) -> None:
        self.needs.write()

    def _to_folder(self, text: str) -> None:
        self._folder.write(FILE, text)

    def _to_board(self, text: str) -> None:
        if self._board is not None:
            place = self._board / f"{BEFORE}{self._folder.id}{BEHIND}"
            write_whole(place, text)

    def _to_library(self, text: str) -> None:
        self._library.note_status(self._folder.id, platform.node(), text)

    def _told(self) -> dict[str, Any]:
        standing, now = self._standing, time.time()
        return {
            "name": self._folder.name,
            "id": self._folder.id,
            "state": standing.state,
            "reason": standing.reason,
            "at": now,
            "every": EVERY,
            "heard": standing.heard,
            "seconds": self._earlier + now - standing.since,
            "seconds_left": standing.seconds_left() if standing.state == "running" else None,
            "driver": {
                "host": platform.node(),
                "pid": os.getpid(),
                "folder": str(self._folder.path),
            },
            "library": {"place": shown(self._library.uri), "unwritten": self._unwritten},
            "tracking": dict(self._tracking()),
            "nodes": self._nodes,
            **standing.plain(SHOWN),
        }


def stilled(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot of a driver that was killed: nothing that it tells of is on its way any more."""
    trials = {**snapshot["trials"], "running": [], "waiting": []}
    none = {"running": 0, "queued": 0, "waiting": 0, "open": [], "unborn": []}
    return {
        **snapshot,
        "seconds_left": None,
        "trials": trials,
        "stages": {**snapshot["stages"], **none},
    }


def silent_for(snapshot: Snapshot, now: float) -> float | None:
    """Seconds since a running search's last sign of life, if it is overdue."""
    age = now - float(snapshot["at"])
    overdue = age > PATIENCE * float(snapshot["every"])
    return age if snapshot["state"] == "running" and overdue else None
