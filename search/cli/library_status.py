"""How a search stands, as its driver told its library."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable

from search.address import shown
from search.bulletin import Snapshot
from search.folder import newest
from search.library.existing import existing
from search.library.need import Run, name_of, the_run
from spaces.problem import ConfigError, Problem


def status_in(place: str, asked: str) -> Snapshot:
    """What the drivers of a run told the library at ``place`` last.

    Args:
        asked: the run's id or name, or an experiment's name: its newest run is meant.

    Raises:
        ConfigError: no such library or run, several runs of the name, or a damaged status.
    """
    latest = {run: _latest(texts) for run, texts in existing(place).statuses().items()}
    runs = [_run(run, told) for run, told in latest.items()]
    ids = {name for run in runs for name in (run.id, f"{run.id}.json")}
    name = asked if asked in ids else newest(asked, {run.name for run in runs}, shown(place))
    chosen = the_run(name, runs, "NAME")
    told = latest[chosen.id]
    if told is None:
        message = f"the status of {chosen.id} is damaged; a driver that runs writes it anew"
        raise ConfigError([Problem(f"{shown(place)}/status", message)])
    return told


def _run(run_id: str, told: Snapshot | None) -> Run:
    if told is None:
        return Run(run_id, name_of(run_id))
    driver = told["driver"]
    return Run(run_id, str(told["name"]), str(driver["host"]), str(driver["folder"]))


def _latest(texts: Iterable[str]) -> Snapshot | None:
    """The newest of what several drivers of one run told; damaged texts are passed over."""
    found: list[tuple[float, Snapshot]] = []
    for text in texts:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            told = json.loads(text)
            _run("", told)
            found.append((float(told["at"]), told))
    return max(found, key=lambda each: each[0])[1] if found else None
