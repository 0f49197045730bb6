"""The spool: what is to be sent to MLflow, on disk and in order until it has been sent."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spaces.problem import ConfigError, Problem

Operation = dict[str, Any]
"""``do`` says what (see :mod:`search.tracking.operations`), ``run`` to which run."""


class Busy(ConfigError):
    """Another process works with this folder."""


class Spool:
    """A file of JSON lines, and beside it how many of its bytes have been sent.

    One process owns the folder. A line is handed to the operating system before ``append``
    returns, so it outlives the process, and to the disk before it is sent. Any thread may
    append; one thread reads and forgets.

    Raises:
        Busy: another process kept the folder for ``patience`` seconds.
    """

    def __init__(self, folder: Path, patience: float = 15.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock", thread_local=False)
        try:
            self._lock.acquire(timeout=patience)
        except Timeout:
            message = f"another process is tracking a search in {folder}; stop it or wait for it"
            raise Busy([Problem("tracking", message)]) from None
        self._path = folder / "operations.jsonl"
        self._sent_path = folder / "sent.json"
        self._guard = threading.Lock()
        self._sent = _sent(folder)
        _cut_torn_line(self._path)
        self._file = self._path.open("ab")
        self._pending = waiting(folder)

    @property
    def pending(self) -> int:
        """Operations not sent yet."""
        return self._pending

    def append(self, *operations: Mapping[str, Any]) -> None:
        """Add operations to the end.

        Raises:
            OSError: they could not be written.
        """
        lines = [json.dumps(operation, separators=(",", ":")) + "\n" for operation in operations]
        with self._guard:
            self._file.write("".join(lines).encode())
            self._file.flush()
            self._pending += len(lines)

    def read(self, most: int) -> tuple[list[Operation], int]:
        """The oldest operations not sent yet, ``most`` at most, and where they end."""
        os.fsync(self._file.fileno())
        operations: list[Operation] = []
        with self._path.open("rb") as lines:
            lines.seek(self._sent)
            end = self._sent
            for line in lines:
                if len(operations) == most or not line.endswith(b"\n"):
                    break
                operations.append(json.loads(line))
                end += len(line)
        return operations, end

    def forget(self, count: int, end: int) -> None:
        """``count`` operations up to ``end`` have been sent; an empty spool is an empty file."""
        with self._guard:
            self._pending -= count
            if end == self._file.tell():
                # In this order: `_sent` reads a place beyond the end as an interrupted cut.
                self._file.truncate(0)
                self._file.seek(0)
                self._pending = end = 0
            self._sent = end
            _replace(self._sent_path, json.dumps({"bytes": end}))

    def close(self) -> None:
        """Let another process have the folder, also on a full disk."""
        with contextlib.suppress(OSError):  # of a line that `append` has said is not written
            self._file.close()
        self._lock.release()


def waiting(folder: Path) -> int:
    """How many operations wait in a folder, whoever owns it."""
    path = folder / "operations.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        lines.seek(_sent(folder))
        return sum(line.endswith(b"\n") for line in lines)


def _sent(folder: Path) -> int:
    try:
        sent = int(json.loads((folder / "sent.json").read_text())["bytes"])
        size = (folder / "operations.jsonl").stat().st_size
    except FileNotFoundError:
        return 0
    return sent if sent <= size else 0


def _cut_torn_line(path: Path) -> None:
    """A crash of the machine may leave half a line, which no one was told is safe."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)


def _replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
