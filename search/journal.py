"""The study's journal: Optuna's file of JSON lines, without a wait for the disk at every line.

A trial is some nine lines. Each is handed to the operating system before a call returns, so it
outlives the process; what a machine that loses its power must not forget is how trials ended, and
only those lines wait for the disk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend


class Journal(JournalFileBackend):
    """The file at ``path``; one process at a time writes it, and needs no lock for that."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines to the end."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with self._path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            if any("state" in log for log in logs):
                os.fsync(file.fileno())
