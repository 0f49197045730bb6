"""What a library holds that no search needs."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Collection
from dataclasses import dataclass

from stillhouse.search.artifacts.need import Need
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.monitoring.publisher import silent_for

GRACE = datetime.timedelta(minutes=1)
"""A running search notes what it needs within this time: younger files are left alone."""


@dataclass(frozen=True)
class Unneeded:
    """Artifacts that no search needs, and paths of files that belong to none."""

    records: tuple[Record, ...]
    files: tuple[str, ...]
    before: datetime.datetime
    """Only what is older counts."""

    @property
    def bytes(self) -> int:
        """Of the artifacts."""
        return sum(record.payload.size for record in self.records)


def unneeded(library: Library, forgotten: Collection[str], older: float) -> Unneeded:
    """What no search needs, without those whose ids are ``forgotten``.

    Args:
        older: hours; what is younger is left alone.

    Raises:
        ConfigError: a note or a record cannot be read, so that what is needed is unknown.
    """
    now = datetime.datetime.now(datetime.UTC)
    before = now - datetime.timedelta(hours=older)
    if _any_running(library, forgotten):
        before = min(before, now - GRACE)
    needs = _needs(library, forgotten)
    kept = _kept(library, needs)
    half_done = {key for need in needs if not need.ended for key in need.keys}
    records = [
        record
        for record in library.records()
        if record.key not in kept and datetime.datetime.fromisoformat(record.made_at) <= before
    ]
    files = [path for path in library.leftovers(before) if _scratch_of(path) not in half_done]
    return Unneeded(tuple(records), tuple(files), before)


def delete(library: Library, found: Unneeded, forgotten: Collection[str]) -> Unneeded:
    """Delete what was found, and the notes of runs that are forgotten; returns what was deleted.

    The notes are read once more before: a search may have begun to need something meanwhile.
    """
    kept = _kept(library, _needs(library, forgotten))
    records = tuple(record for record in found.records if record.key not in kept)
    for path in found.files:
        library.remove_file(path, found.before)
    for record in records:
        library.remove(record.key)
    for run in forgotten:
        library.forget_search(run)
    return Unneeded(records, found.files, found.before)


def _any_running(library: Library, forgotten: Collection[str]) -> bool:
    """Whether a search has given a sign of life in time and says that it runs."""
    now, told = time.time(), library.statuses()
    texts = [text for run in told.keys() - set(forgotten) for text in told[run]]
    return any(_runs(text, now) for text in texts)


def _runs(status: str, now: float) -> bool:
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        told = json.loads(status)
        return told["state"] == "running" and silent_for(told, now) is None
    return False


def _needs(library: Library, forgotten: Collection[str]) -> list[Need]:
    return [need for run, need in library.needs().items() if run not in forgotten]


def _kept(library: Library, needs: Collection[Need]) -> set[str]:
    """The keys that are needed, and those of their parents."""
    keys = {key for need in needs for key in need.keys}
    return keys | {p for key in keys if (r := library.record(key)) for p in r.parents}


def _scratch_of(path: str) -> str:
    """The key of the stage whose half-done state a file is; of several in one pass the first."""
    folder, _, name = path.partition("/")
    return name[:64] if folder == "scratch" else ""
