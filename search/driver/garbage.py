"""Finds and deletes the artifacts and files of a library that no search needs."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Collection
from dataclasses import dataclass

from stillhouse.search.artifacts.need import RunReferences
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.monitoring.publisher import heartbeat_overdue

NEED_WRITE_GRACE = datetime.timedelta(minutes=1)
"""A running search registers its artifacts within this time; younger files are left alone."""


@dataclass(frozen=True)
class UnusedFiles:
    """Artifacts that no search needs, and paths of files that belong to no artifact."""

    records: tuple[Record, ...]
    files: tuple[str, ...]
    written_before: datetime.datetime
    """Younger files are not deleted."""

    @property
    def total_bytes(self) -> int:
        """Bytes of the artifacts."""
        return sum(record.payload.size for record in self.records)


def find_unused(
    library: Library, forgotten_run_ids: Collection[str], min_age_hours: float
) -> UnusedFiles:
    """The artifacts and files that no run needs, except the runs of ``forgotten_run_ids``.

    Args:
        min_age_hours: younger artifacts and files are left alone.

    Raises:
        ConfigError: a reference or a record cannot be read, so the needs are unknown.
    """
    now = datetime.datetime.now(datetime.UTC)
    cutoff = now - datetime.timedelta(hours=min_age_hours)
    if _any_running(library, forgotten_run_ids):
        cutoff = min(cutoff, now - NEED_WRITE_GRACE)
    references = _remaining_references(library, forgotten_run_ids)
    referenced_keys = _referenced_keys(library, references)
    unfinished_keys = {
        key for reference in references if not reference.is_finished for key in reference.keys
    }
    records = [
        record
        for record in library.records()
        if record.key not in referenced_keys
        and datetime.datetime.fromisoformat(record.made_at) <= cutoff
    ]
    files = [
        path for path in library.orphaned_files(cutoff) if _scratch_key(path) not in unfinished_keys
    ]
    return UnusedFiles(tuple(records), tuple(files), cutoff)


def delete_unused(
    library: Library, unused: UnusedFiles, forgotten_run_ids: Collection[str]
) -> UnusedFiles:
    """Delete unused files and the references of forgotten runs; returns what was deleted.

    References are read again first, because a search may have added some.
    """
    referenced_keys = _referenced_keys(library, _remaining_references(library, forgotten_run_ids))
    records = tuple(record for record in unused.records if record.key not in referenced_keys)
    for path in unused.files:
        library.remove_file(path, unused.written_before)
    for record in records:
        library.remove_artifact(record.key)
    for run_id in forgotten_run_ids:
        library.forget_run(run_id)
    return UnusedFiles(records, unused.files, unused.written_before)


def _any_running(library: Library, forgotten_run_ids: Collection[str]) -> bool:
    """Whether a search is running, by its status and a recent heartbeat."""
    now, statuses = time.time(), library.statuses()
    texts = [
        text for run_id in statuses.keys() - set(forgotten_run_ids) for text in statuses[run_id]
    ]
    return any(_is_running(text, now) for text in texts)


def _is_running(status_json: str, now: float) -> bool:
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        status = json.loads(status_json)
        return status["state"] == "running" and heartbeat_overdue(status, now) is None
    return False


def _remaining_references(
    library: Library, forgotten_run_ids: Collection[str]
) -> list[RunReferences]:
    return [
        references
        for run_id, references in library.all_references().items()
        if run_id not in forgotten_run_ids
    ]


def _referenced_keys(library: Library, references: Collection[RunReferences]) -> set[str]:
    """The referenced keys, and the keys of their parents."""
    keys = {key for reference in references for key in reference.keys}
    return keys | {
        parent for key in keys if (record := library.record(key)) for parent in record.parents
    }


def _scratch_key(path: str) -> str:
    """The key of the stage whose checkpoint a file is; of a batch, the first key."""
    folder, _, name = path.partition("/")
    return name[:64] if folder == "scratch" else ""
