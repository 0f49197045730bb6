"""Selects the latest published status of the run that a user names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping

from stillhouse.search.artifacts.need import RunRef, find_run, name_of
from stillhouse.search.monitoring.publisher import Snapshot
from stillhouse.search.results.run_folder import newest_run
from stillhouse.spaces.config.problems import ConfigError, Problem


def matching_run_ids(asked: str, ids: Collection[str], location: str) -> list[str]:
    """The ids that ``asked`` can mean.

    Args:
        asked: a run's id or name, or the name of an experiment for its newest run.
        ids: of all runs.
        location: where the statuses are, for messages.

    Raises:
        ConfigError: there is no such run.
    """
    run_id = asked.removesuffix(".json")
    if run_id in ids and (run_id != asked or name_of(run_id) != run_id):
        return [run_id]
    name = newest_run(asked, {name_of(run) for run in ids}, location)
    return [run for run in ids if name_of(run) == name]


def latest_status(name: str, statuses: Mapping[str, Iterable[str]], location: str) -> Snapshot:
    """The latest status of a run.

    Args:
        name: as ``asked`` of ``matching_run_ids``.
        statuses: run id -> the last status of each of its drivers.
        location: where the statuses are, for messages.

    Raises:
        ConfigError: no such run, several runs of the name, or a damaged status.
    """
    ids = matching_run_ids(name, statuses.keys(), location)
    snapshots = {run: _latest_snapshot(statuses[run]) for run in ids}
    runs = [_run_of_snapshot(run, snapshot) for run, snapshot in snapshots.items()]
    chosen = runs[0] if len(runs) == 1 else find_run(runs[0].name, runs, "NAME")
    snapshot = snapshots[chosen.id]
    if snapshot is None:
        message = f"the status of {chosen.id} is damaged; a running driver replaces it"
        raise ConfigError([Problem(location, message)])
    return snapshot


def _run_of_snapshot(run_id: str, snapshot: Snapshot | None) -> RunRef:
    if snapshot is None:
        return RunRef(run_id, name_of(run_id))
    driver = snapshot["driver"]
    return RunRef(run_id, str(snapshot["name"]), str(driver["host"]), str(driver["folder"]))


def _latest_snapshot(texts: Iterable[str]) -> Snapshot | None:
    """The newest status of several drivers of one run; damaged texts are ignored."""
    snapshots: list[tuple[float, Snapshot]] = []
    for text in texts:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            snapshot = json.loads(text)
            _run_of_snapshot("", snapshot)
            snapshots.append((float(snapshot["at"]), snapshot))
    return max(snapshots, key=lambda dated_snapshot: dated_snapshot[0])[1] if snapshots else None
