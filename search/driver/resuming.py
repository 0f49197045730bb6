"""Refuses to resume a run whose trials would have other keys today.

The study has the keys of each trial. If data, weights or a method have changed, the same values
have other keys, and one table would mix two experiments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.artifacts.store import Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import StageGraph, build_stage_graph, parse_stage
from stillhouse.search.results.outcome import TrialResult
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.study_reading import StudyReader
from stillhouse.spaces.config.problems import ConfigError, Problem

MAX_CHANGES_SHOWN = 3
_MAX_VALUE_LENGTH = 40
_CHECKED_STATES = ("finished", "pruned", "running")
_ABSENT = object()


def check_unchanged(experiment: Experiment, folder: RunFolder) -> None:
    """Compare the recorded keys of trials with the keys of their values today.

    Failed trials are not compared, because they have no results. Trials of early versions have no
    keys.

    Raises:
        ConfigError: a trial has other keys today; the message names the changes.
    """
    study = StudyReader(experiment, folder.path)
    try:
        trials = study.trials()
    finally:
        study.close()
    graphs, library = _GraphCache(experiment), Library(experiment.library)
    for trial in _distinct_trials(trials):
        difference = _describe_difference(trial, graphs, library)
        if difference:
            message = (
                f"cannot go on, since trial {trial.number} would be another one today: "
                f"{difference}; bring back what it was, or launch a new search"
            )
            raise ConfigError([Problem(folder.name, message)])


def _distinct_trials(trials: Iterable[TrialResult]) -> Iterator[TrialResult]:
    """One trial for each combination of values and keys."""
    seen = set()
    for trial in trials:
        fingerprint = json.dumps([trial.values, trial.stage_keys], sort_keys=True)
        if trial.state in _CHECKED_STATES and trial.stage_keys and fingerprint not in seen:
            seen.add(fingerprint)
            yield trial


def _describe_difference(trial: TrialResult, graphs: _GraphCache, library: Library) -> str:
    """The change since a trial was proposed; empty if nothing changed."""
    try:
        stages = list(graphs.graph(trial.values).student.ancestors())
    except ConfigError as error:
        return "; ".join(map(str, error.problems))
    recorded_keys = set(trial.stage_keys.values())
    for stage in stages:  # parents first, so the first difference is the cause
        if stage.key not in recorded_keys:
            return _describe_change(stage, trial.stage_keys.get(stage.label, ""), library)
    missing_keys = recorded_keys - {stage.key for stage in stages}
    labels = [label for label, key in trial.stage_keys.items() if key in missing_keys]
    return f"it no longer needs {', '.join(labels)}" if labels else ""


def _describe_change(stage: Stage, key: str, library: Library) -> str:
    if not key:
        return f"it now needs {stage.label}"
    record = library.record(key)
    if record is None:
        return f"{stage.label} has changed; what it was is not in the library"
    before, after = json.loads(json.dumps([record.identity, stage.identity]))
    changed = list(_changed_paths(before, after))
    more = (
        f" and {len(changed) - MAX_CHANGES_SHOWN} more" if len(changed) > MAX_CHANGES_SHOWN else ""
    )
    return f"{stage.label} has changed ({', '.join(changed[:MAX_CHANGES_SHOWN])}{more})"


def _changed_paths(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Each difference of two plain values: ``data.source.fingerprint was A, is B``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            inner = f"{path}.{name}" if path else name
            yield from _changed_paths(before.get(name, _ABSENT), after.get(name, _ABSENT), inner)
    elif before != after:
        yield f"{path} was {_format_value(before)}, is {_format_value(after)}"


def _format_value(value: Any) -> str:
    if value is _ABSENT:
        return "not there"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


class _GraphCache:
    """Stage graphs of one experiment; an entry that several graphs share is expanded once.

    Only the keys of the graphs are used. Their values were checked at the proposal.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._parsed: dict[tuple[str, str], StageConfig] = {}
        self._expanded: dict[tuple[object, ...], ExpandedStage] = {}

    def graph(self, values: Mapping[str, Any]) -> StageGraph:
        """As :meth:`Experiment.stage_graph`."""
        stages, data = self._experiment.with_values(values)
        entries = {name: self._parse_entry(name, document) for name, document in stages.items()}
        return build_stage_graph(entries, data, self._experiment.final_name, self._expand)

    def _parse_entry(self, name: str, document: Mapping[str, Any]) -> StageConfig:
        cache_key = name, json.dumps(document, sort_keys=True, default=repr)
        if cache_key not in self._parsed:
            entry = parse_stage(document, name).with_latency_settings(self._experiment.run.latency)
            self._parsed[cache_key] = entry
        return self._parsed[cache_key]

    def _expand(
        self, name: str, entry: StageConfig, needed: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        # ``_parsed`` keeps every entry alive, so ids are unique.
        parents = tuple(id(needed[need]) for need in entry.dependencies())
        cache_key = name, id(entry), data.fingerprint(), parents
        if cache_key not in self._expanded:
            self._expanded[cache_key] = entry.expand(name, needed, data)
        return self._expanded[cache_key]
