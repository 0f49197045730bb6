"""The outbox: operations for MLflow, kept on disk in order until they are sent."""

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
"""Lines that are not operations, as after disk damage; they are never sent."""

OutboxEntry = dict[str, Any]
"""``do`` names the operation (see ``stillhouse.search.monitoring.mlflow.operations``), ``run`` the
run."""


class Busy(ConfigError):
    """Another process works with this folder."""


class Outbox:
    """A file of JSON lines, and a file with the number of bytes that were sent.

    One process owns the folder. ``append`` flushes each line to the operating system, so it
    survives the process. ``read`` syncs the file to disk before anything is sent. Any thread may
    append; one thread reads and marks as sent.

    Raises:
        Busy: another process owned the folder for ``lock_timeout`` seconds.
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
        """Number of operations that are not sent yet."""
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
        """The oldest unsent operations, at most ``max_entries``, and the offset of their end.

        Unreadable lines are set aside and do not block the others.
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
        """Record that ``count`` operations up to ``end`` are sent; if all are, empty the file."""
        with self._write_lock:
            self._num_pending -= count
            if end == self._file.tell():
                # The order matters: an offset beyond the end means an interrupted truncation.
                self._file.truncate(0)
                self._file.seek(0)
                self._num_pending = end = 0
            self._sent_bytes = end
            write_atomically(self._sent_path, json.dumps({"bytes": end}))

    def close(self) -> None:
        """Release the folder, also if the disk is full."""
        with contextlib.suppress(OSError):  # `append` has raised it before
            self._file.close()
        self._lock.release()

    def _skip_unreadable(self) -> None:
        """Set aside the leading lines that are not operations."""
        with self._path.open("rb") as lines:
            lines.seek(self._sent_bytes)
            skipped = list(itertools.takewhile(_is_unreadable, lines))
        if skipped:
            self._quarantine(b"".join(skipped))
            self.mark_sent(len(skipped), self._sent_bytes + sum(map(len, skipped)))

    def _cut_torn_line(self) -> None:
        """Set aside a torn last line, which a crash of the machine can leave."""
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
    """The number of unsent operations in a folder, whichever process owns it."""
    path = folder / "operations.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as lines:
        lines.seek(_read_sent_bytes(folder))
        return sum(line.endswith(b"\n") for line in lines)


def _read_sent_bytes(folder: Path) -> int:
    """The number of sent bytes; 0 if unknown, since sending twice does no harm."""
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
    """The operation in a line; None if the line is incomplete or not an operation."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:  # including a torn UTF-8 character
        return None
    is_entry = isinstance(entry, dict) and all(isinstance(entry.get(k), str) for k in ("do", "run"))
    return entry if is_entry else None


def _is_unreadable(line: bytes) -> bool:
    return line.endswith(b"\n") and _parse_entry(line) is None
