"""Variants of an experiment: without teachers, and one for each technique of a factorial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import parts
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.problems import ConfigError, Problem

BASELINES = ("assembled", "plain", "direct", "scratch", "end to end", "uniform")
"""The roles of baselines, in the order in which they are reported."""
PLAIN, DISTILLED = "plain", "trial 0"
"""The roles of the student as written, taught by labels alone and as it says."""


def with_distillation(technique: str) -> str:
    """The role of a technique's student that has a teacher; its name alone is that without."""
    return f"{technique} + teacher" if technique else DISTILLED


def labels_alone(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says otherwise where it learns from labels alone."""
    told = entry["objective"].get("cross_entropy") or {}
    return {"objective": {"cross_entropy": {**told, "weight": 1.0}}, "teachers": []}


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """Role -> the experiment of its student: every technique, and none, with and without teachers.

    Raises:
        ConfigError: a technique names no setting.
    """
    asked = experiment.factorial
    assert asked is not None
    none: dict[str, dict[str, Any]] = {"": {}}
    found = {}
    for name, changes in (none | dict(asked.techniques)).items():
        taught = _with(experiment, changes)
        found[with_distillation(name)] = taught
        found[name or PLAIN] = _without_teachers(taught)
    return found


def _with(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with ``changes`` in place."""
    stages, data = experiment.with_values(changes)
    return replace(experiment, stages=stages, data=data)


def _without_teachers(experiment: Experiment) -> Experiment:
    entry = experiment.stages[experiment.final]
    alone = {**experiment.stages, experiment.final: {**entry, **labels_alone(entry)}}
    return replace(experiment, stages=alone)


def check_factorial(experiment: Experiment) -> Iterator[Problem]:
    """What of a factorial cannot be."""
    asked = experiment.factorial
    if asked is None:
        return
    if experiment.search:
        message = "has no place beside search; give the values, or leave it out"
        yield Problem("factorial", message)
    entry = experiment.entries.get(experiment.final)
    if not isinstance(entry, Train) or not entry.teachers or entry.objective is None:
        message = f"asks whether teachers help, and {experiment.final!r} is not taught by any"
        yield Problem("factorial", message)
        return

    for name, changes in asked.techniques.items():
        if name in BASELINES:
            message = "is how a baseline is called; choose another name"
            yield Problem(f"factorial.techniques.{name}", message)
        try:
            _check_paths(changes, experiment)
            taught = _with(experiment, changes)
            taught.recipe()
            _without_teachers(taught).recipe()
        except ConfigError as error:
            yield from error.under(f"factorial.techniques.{name}").problems


def _check_paths(changes: Mapping[str, Any], experiment: Experiment) -> None:
    """Every change is of a setting of an entry, or of the data.

    Raises:
        ConfigError: one is not.
    """
    places = ("data", *experiment.stages)
    wrong = [path for path in changes if parts(path)[0] not in places or len(parts(path)) < 2]
    if wrong:
        message = f"names no setting; needs a path like {experiment.final}.training.lr"
        raise ConfigError([Problem(path, message) for path in wrong])
