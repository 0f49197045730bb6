"""The spool: what is to be sent to MLflow, on disk and in order until it has been sent."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stillhouse.search.core.durable import read_json_mapping, write_atomically
from stillhouse.spaces.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)

UNREADABLE_FILE = "unreadable.jsonl"
"""Lines that are no operations, as of a damaged disk; MLflow never gets them."""

OutboxEntry = dict[str, Any]
"""``do`` says what (see :mod:`stillhouse.search.monitoring.mlflow.operations`), ``run`` to which
run."""


class Busy(ConfigError):
    """Another process works with this folder."""


class Outbox:
    """A file of JSON lines, and beside it how many of its bytes have been sent.

    One process owns the folder. A line is handed to the operating system before ``append``
    returns, so it outlives the process, and to the disk before it is sent. Any thread may
    append; one thread reads and forgets.

    Raises:
        Busy: another process kept the folder for ``patience`` seconds.
    """

    def __init__(self, folder: Path, lock_timeout: float = 15.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock", thread_local=False)
        try:
            self._lock.acquire(timeout=lock_timeout)
        except Timeout:
            message = f"another process is tracking a search in {folder}; stop it or wait for it"
            raise Busy([Problem("tracking", message)]) from None
        self._path = folder / "operations.jsonl"
        self._sent_path = folder / "sent.json"
        self._write_lock = threading.Lock()
        self._sent_bytes = _read_sent_bytes(folder)
        self._unreadable_path = folder / UNREADABLE_FILE
        self._cut_torn_line()
        self._file = self._path.open("ab")
        self._num_pending = count_pending(folder)

    @property
    def num_pending(self) -> int:
        """Operations not sent yet."""
        return self._num_pending

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Add operations to the end.

        Raises:
            OSError: they could not be written.
        """
        lines = [json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries]
        with self._write_lock:
            self._file.write("".join(lines).encode())
            self._file.flush()
            self._num_pending += len(lines)

    def read(self, max_entries: int) -> tuple[list[OutboxEntry], int]:
        """The oldest operations not sent yet, ``max_entries`` at most, and where they end.

        Lines that say nothing are put aside, and hold up no others.
        """
        os.fsync(self._file.fileno())
        self._skip_unreadable()
        entries: list[OutboxEntry] = []
        with self._path.open("rb") as lines:
            lines.seek(self._sent_bytes)
            end = self._sent_bytes
            for line in lines:
                entry = _parse_entry(line)
                if len(entries) == max_entries or entry is None:
                    break
                entries.append(entry)
                end += len(line)
        return entries, end

    def mark_sent(self, count: int, end: int) -> None:
        """``count`` operations up to ``end`` have been sent; an empty spool is an empty file."""
        with self._write_lock:
            self._num_pending -= count
            if end == self._file.tell():
                # In this order: `_sent` reads a place beyond the end as an interrupted cut.
                self._file.truncate(0)
                self._file.seek(0)
                self._num_pending = end = 0
            self._sent_bytes = end
            write_atomically(self._sent_path, json.dumps({"bytes": end}))

    def close(self) -> None:
        """Let another process have the folder, also on a full disk."""
        with contextlib.suppress(OSError):  # of a line that `append` has said is not written
            self._file.close()
        self._lock.release()

    def _skip_unreadable(self) -> None:
        """Put aside the lines in front that are no operations."""
        with self._path.open("rb") as lines:
            lines.seek(self._sent_bytes)
            skipped = list(itertools.takewhile(_is_unreadable, lines))
        if skipped:
            self._quarantine(b"".join(skipped))
            self.mark_sent(len(skipped), self._sent_bytes + sum(map(len, skipped)))

    def _cut_torn_line(self) -> None:
        """A crash of the machine may leave half a line, which no one was told is safe."""
        if not self._path.exists():
            return
        with self._path.open("rb+") as file:
            complete_bytes = sum(len(line) for line in file if line.endswith(b"\n"))
            file.seek(complete_bytes)
            if partial_line := file.read():
                self._quarantine(partial_line)
                file.truncate(complete_bytes)

    def _quarantine(self, data: bytes) -> None:
        with self._unreadable_path.open("ab") as file:
            file.write(data.rstrip(b"\n") + b"\n")
        log.warning(
            "%d bytes for MLflow cannot be read, as after a loss of power; they are put aside in "
            "%s, and the rest is sent",
            *(len(data), self._unreadable_path),
        )


def count_pending(folder: Path) -> int:
    """How many operations wait in a folder, whoever owns it."""
    path = folder / "operations.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        lines.seek(_read_sent_bytes(folder))
        return sum(line.endswith(b"\n") for line in lines)


def _read_sent_bytes(folder: Path) -> int:
    """How many bytes have been sent. 0 where that is not known: to send twice does no harm."""
    try:
        sent = (read_json_mapping(folder / "sent.json") or {}).get("bytes")
        with (folder / "operations.jsonl").open("rb") as lines:
            if not isinstance(sent, int) or not 0 < sent <= lines.seek(0, os.SEEK_END):
                return 0
            lines.seek(sent - 1)
            return sent if lines.read(1) == b"\n" else 0
    except FileNotFoundError:
        return 0


def _parse_entry(line: bytes) -> OutboxEntry | None:
    """What a line says; none if it is no whole operation."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:  # also half a letter
        return None
    is_entry = isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in ("do", "run"))
    return entry if is_entry else None


def _is_unreadable(line: bytes) -> bool:
    return line.endswith(b"\n") and _parse_entry(line) is None
