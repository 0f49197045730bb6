"""Whether a run that goes on would make what it has made before.

The study holds each trial's keys. Where data, weights or a method have changed since, the same
values have other keys today, and one table would mix two experiments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import Recipe, lay_out, parse_entry
from stillhouse.search.results.outcome import Trial
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.study_reading import StudyReader
from stillhouse.spaces.config.problems import ConfigError, Problem

MOST_SHOWN = 3
_LONGEST = 40
_CHECKED = ("finished", "pruned", "running")
_NOTHING = object()


def check_unchanged(experiment: Experiment, folder: RunFolder) -> None:
    """Compare the keys of a study's trials with those that their values have today.

    Trials that failed are in no table of results; trials of early versions have no keys.

    Raises:
        ConfigError: a trial has other keys today; the message says what changed.
    """
    study = StudyReader(experiment, folder.path)
    try:
        trials = study.trials()
    finally:
        study.close()
    layouts, library = _Layouts(experiment), Library(experiment.library)
    for trial in _distinct(trials):
        why = _difference(trial, layouts, library)
        if why:
            message = (
                f"cannot go on, since trial {trial.number} would be another one today: {why}; "
                "bring back what it was, or launch a new search"
            )
            raise ConfigError([Problem(folder.name, message)])


def _distinct(trials: Iterable[Trial]) -> Iterator[Trial]:
    """One trial for all that have the same values and keys."""
    seen = set()
    for trial in trials:
        told = json.dumps([trial.values, trial.keys], sort_keys=True)
        if trial.state in _CHECKED and trial.keys and told not in seen:
            seen.add(told)
            yield trial


def _difference(trial: Trial, layouts: _Layouts, library: Library) -> str:
    """What changed since a trial was laid out; empty if nothing did."""
    try:
        stages = list(layouts.recipe(trial.values).student.lineage())
    except ConfigError as error:
        return "; ".join(map(str, error.problems))
    known = set(trial.keys.values())
    for stage in stages:  # parents first: the first that differs has changed itself
        if stage.key not in known:
            return _change(stage, trial.keys.get(stage.label, ""), library)
    gone = known - {stage.key for stage in stages}
    labels = [label for label, key in trial.keys.items() if key in gone]
    return f"it no longer rests on {', '.join(labels)}" if labels else ""


def _change(stage: Stage, key: str, library: Library) -> str:
    if not key:
        return f"it rests on {stage.label}, which it did not before"
    record = library.record(key)
    if record is None:
        return f"{stage.label} has changed; what it was is not in the library"
    before, now = json.loads(json.dumps([record.identity, stage.identity]))
    changed = list(_changes(before, now))
    more = f" and {len(changed) - MOST_SHOWN} more" if len(changed) > MOST_SHOWN else ""
    return f"{stage.label} has changed ({', '.join(changed[:MOST_SHOWN])}{more})"


def _changes(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Each place where two plain values differ: ``data.source.fingerprint was A, is B``."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted({*before, *now}):
            inner = f"{path}.{name}" if path else name
            yield from _changes(before.get(name, _NOTHING), now.get(name, _NOTHING), inner)
    elif before != now:
        yield f"{path} was {_shown(before)}, is {_shown(now)}"


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "not there"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class _Layouts:
    """Recipes of one experiment; an entry that several share is parsed and laid out once.

    Only keys are asked of them: what :func:`lay_out` checks was checked when they were proposed.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._parsed: dict[tuple[str, str], Kind] = {}
        self._laid: dict[tuple[object, ...], Entry] = {}

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """As :meth:`Experiment.recipe`."""
        stages, data = self._experiment.with_values(values)
        entries = {name: self._entry(name, told) for name, told in stages.items()}
        return lay_out(entries, data, self._experiment.final, self._lay_out)

    def _entry(self, name: str, told: Mapping[str, Any]) -> Kind:
        known = name, json.dumps(told, sort_keys=True, default=repr)
        if known not in self._parsed:
            entry = parse_entry(told, name).timed_by(self._experiment.run.latency)
            self._parsed[known] = entry
        return self._parsed[known]

    def _lay_out(
        self, name: str, entry: Kind, needed: Mapping[str, Entry], data: DataConfig
    ) -> Entry:
        # Entries are kept for good here, so that each has an identity of its own.
        parents = tuple(id(needed[need]) for need in entry.needs())
        known = name, id(entry), data.fingerprint(), parents
        if known not in self._laid:
            self._laid[known] = entry.lay_out(name, needed, data)
        return self._laid[known]
