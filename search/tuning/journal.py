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

from stillhouse.search.core.durable import write_whole
from stillhouse.search.core.errors import Lost

log = logging.getLogger(__name__)

LAST_OF_TRIAL = "known"
"""The user attribute that is written last before a trial is handed out."""


class Journal(BaseJournalBackend):
    """The file at ``path``.

    Args:
        path: need not be there; then there are no lines.
        writes: whether this process is the one that may add lines. It repairs the file first.
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self._path = path
        self._writes = writes
        self._lines, self._end = 0, 0
        if writes:
            _put_torn_end_aside(path)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from a number on, up to the first that is not whole."""
        if not self._path.exists():
            return
        skipped, start = (self._lines, self._end) if log_number_from >= self._lines else (0, 0)
        with self._path.open("rb") as file:
            file.seek(start)
            for number, line in enumerate(file, skipped):
                entry = _entry(line)
                if entry is None:
                    return
                if number + 1 > self._lines:
                    self._lines, self._end = number + 1, start + len(line)
                start += len(line)
                if number >= log_number_from:
                    yield entry

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines to the end.

        Raises:
            Lost: they could not be written; the file ends where it did.
        """
        if not self._writes:
            raise RuntimeError("this study was opened to be read")
        text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in logs)
        try:
            self._append(text.encode(), durable=any(map(_must_last, logs)))
        except OSError as error:
            message = f"cannot write {self._path}: {error.strerror}; make room there"
            raise Lost("study", message) from None

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


def _must_last(entry: dict[str, Any]) -> bool:
    return "state" in entry or LAST_OF_TRIAL in entry.get("user_attr", {})


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; none if it is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:  # also half a letter
        return None
    return entry if isinstance(entry, dict) and "op_code" in entry else None


def _put_torn_end_aside(path: Path) -> None:
    """Cut off what follows the last whole line, and keep it in a file of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole, lines = 0, 0
        for line in file:
            if _entry(line) is None:
                break
            whole, lines = whole + len(line), lines + 1
        file.seek(whole)
        torn = file.read()
        if not torn:
            return
        aside = write_whole(path.with_name(f"{path.name}.torn-{uuid.uuid4().hex[:8]}"), torn)
        file.truncate(whole)
        os.fsync(file.fileno())
    log.warning(
        "%s had a torn end, as after a loss of power or a full disk: %d whole lines are kept, "
        "%d bytes behind them are put aside as %s",
        *(path, lines, len(torn), aside.name),
    )
