"""Maps the runs of a search to MLflow's run ids, in a small file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from stillhouse.search.core.addresses import for_storage


class RunIdMap:
    """Run name -> MLflow's id at one server, stored as one JSON line for each change.

    A run is *uncertain* if its creation was attempted and no response was recorded. It may or may
    not exist in MLflow.
    """

    def __init__(self, path: Path, uri: str) -> None:
        self._path = path
        # An address is the same with and without its password.
        self._server_hash = hashlib.sha256(for_storage(uri).encode()).hexdigest()[:12]
        self._ids: dict[str, str | None] = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            match _parse_line(line):
                case {"place": self._server_hash, "run": str(run), "id": str() | None as run_id}:
                    self._ids[run] = run_id

    def run_id(self, run: str) -> str | None:
        """MLflow's id of the run."""
        return self._ids.get(run)

    def is_uncertain(self, run: str) -> bool:
        """Whether the run may exist although its id is unknown."""
        return run in self._ids and self._ids[run] is None

    def mark_creating(self, run: str) -> None:
        """Record, safely on disk, that the run is about to be created."""
        self._append_line(run, None)

    def set_run_id(self, run: str, run_id: str) -> None:
        """Record the run's id."""
        self._append_line(run, run_id)

    def invalidate(self) -> None:
        """Make all runs uncertain."""
        self._ids = dict.fromkeys(self._ids)

    def _append_line(self, run: str, run_id: str | None) -> None:
        self._ids[run] = run_id
        with self._path.open("a") as lines:
            # The newline comes first, so that a torn last line does not damage this one.
            lines.write("\n" + json.dumps({"run": run, "id": run_id, "place": self._server_hash}))
            lines.flush()
            os.fsync(lines.fileno())


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # torn by a crash: the run is found by its tag
