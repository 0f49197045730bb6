"""The study's journal: Optuna's file of JSON lines, without a wait for the disk at every line.

A trial is some nine lines. Each is handed to the operating system before a call returns, so it
outlives the process. Two things must also outlive a loss of power, and wait for the disk: what a
trial is, before it is handed out, and how it ended.

Such a loss, or a full disk, may leave the end of the file torn. Whatever follows the last whole
line is no part of the study: readers pass over it, and the next writer puts it aside.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from stillhouse.search.core.durable import write_atomically
from stillhouse.search.core.errors import StorageUnavailable

log = logging.getLogger(__name__)

COMMIT_ATTRIBUTE = "known"
"""The user attribute that is written last before a trial is handed out."""


class JournalFile(BaseJournalBackend):
    """The file at ``path``.

    Args:
        path: need not be there; then there are no lines.
        writable: whether this process may append lines. It first repairs the file.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        self._path = path
        self._writable = writable
        self._num_lines, self._end_offset = 0, 0
        if writable:
            _quarantine_torn_end(path)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from a number on, up to the first that is not whole."""
        if not self._path.exists():
            return
        first_number, offset = (
            (self._num_lines, self._end_offset) if log_number_from >= self._num_lines else (0, 0)
        )
        with self._path.open("rb") as file:
            file.seek(offset)
            for number, line in enumerate(file, first_number):
                entry = _parse_entry(line)
                if entry is None:
                    return
                if number + 1 > self._num_lines:
                    self._num_lines, self._end_offset = number + 1, offset + len(line)
                offset += len(line)
                if number >= log_number_from:
                    yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines to the end.

        Raises:
            StorageUnavailable: the lines could not be written; the file ends where it did.
        """
        if not self._writable:
            raise RuntimeError("this study was opened to be read")
        text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs)
        try:
            self._append(text.encode(), durable=any(map(_needs_fsync, logs)))
        except OSError as error:
            message = f"cannot write {self._path}: {error.strerror}; make room there"
            raise StorageUnavailable("study", message) from None

    def _append(self, data: bytes, durable: bool) -> None:
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(data) < len(data):
                    raise OSError(0, "the disk took a part of a line")
                if durable:
                    os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise


def _needs_fsync(entry: dict[str, Any]) -> bool:
    return "state" in entry or COMMIT_ATTRIBUTE in entry.get("user_attr", {})


def _parse_entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; none if it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:  # also half a letter
        return None
    return entry if isinstance(entry, dict) and "op_code" in entry else None


def _quarantine_torn_end(path: Path) -> None:
    """Cut off what follows the last whole line, and keep it in a file of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole_bytes, num_lines = 0, 0
        for line in file:
            if _parse_entry(line) is None:
                break
            whole_bytes, num_lines = whole_bytes + len(line), num_lines + 1
        file.seek(whole_bytes)
        torn = file.read()
        if not torn:
            return
        torn_path = write_atomically(
            path.with_name(f"{path.name}.torn-{uuid.uuid4().hex[:8]}"), torn
        )
        file.truncate(whole_bytes)
        os.fsync(file.fileno())
    log.warning(
        "%s had a torn end, as after a loss of power or a full disk: %d whole lines are kept, "
        "%d bytes behind them are put aside as %s",
        *(path, num_lines, len(torn), torn_path.name),
    )
