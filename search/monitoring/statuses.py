"""How runs stand, as their drivers told it: whose status a person asks for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Mapping

from stillhouse.search.artifacts.need import Run, name_of, the_run
from stillhouse.search.monitoring.publisher import Snapshot
from stillhouse.search.results.run_folder import newest
from stillhouse.spaces.config.problems import ConfigError, Problem


def asked_for(asked: str, ids: Collection[str], where: str) -> list[str]:
    """Of runs with these ids, those that ``asked`` may mean, by the ids alone.

    Args:
        asked: a run's id or name, or an experiment's name: its newest run is meant.
        where: the place of the statuses, for people.

    Raises:
        ConfigError: there is no such run.
    """
    own = asked.removesuffix(".json")
    if own in ids and (own != asked or name_of(own) != own):
        return [own]
    name = newest(asked, {name_of(run) for run in ids}, where)
    return [run for run in ids if name_of(run) == name]


def status_of(asked: str, statuses: Mapping[str, Iterable[str]], where: str) -> Snapshot:
    """What the drivers of a run told last.

    Args:
        asked: as for :func:`asked_for`.
        statuses: run id -> what each of its drivers told last.
        where: their place, for people.

    Raises:
        ConfigError: no such run, several runs of the name, or a damaged status.
    """
    ids = asked_for(asked, statuses.keys(), where)
    latest = {run: _latest(statuses[run]) for run in ids}
    runs = [_run(run, told) for run, told in latest.items()]
    chosen = runs[0] if len(runs) == 1 else the_run(runs[0].name, runs, "NAME")
    told = latest[chosen.id]
    if told is None:
        message = f"the status of {chosen.id} is damaged; a driver that runs writes it anew"
        raise ConfigError([Problem(where, message)])
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
