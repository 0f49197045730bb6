"""Variants of an experiment: without teachers, and one for each technique of a factorial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import split_path
from stillhouse.search.stages.train import Train
from stillhouse.spaces.config.problems import ConfigError, Problem

BASELINES = ("assembled", "plain", "direct", "scratch", "end to end", "uniform")
"""The roles of baselines, in the order in which they are reported."""
PLAIN, DISTILLED = "plain", "trial 0"
"""The roles of the student as written, taught by labels alone and as it says."""


def distilled_role(technique: str) -> str:
    """The role of a technique's student that has a teacher; its name alone is that without."""
    return f"{technique} + teacher" if technique else DISTILLED


def labels_only(stage_data: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says otherwise where it learns from labels alone."""
    cross_entropy = stage_data["objective"].get("cross_entropy") or {}
    return {"objective": {"cross_entropy": {**cross_entropy, "weight": 1.0}}, "teachers": []}


def factorial_variants(experiment: Experiment) -> dict[str, Experiment]:
    """Role -> the experiment of its student: every technique, and none, with and without teachers.

    Raises:
        ConfigError: a technique names no setting.
    """
    settings = experiment.factorial
    assert settings is not None
    no_technique: dict[str, dict[str, Any]] = {"": {}}
    variants_by_role = {}
    for name, changes in (no_technique | dict(settings.techniques)).items():
        distilled = _with_changes(experiment, changes)
        variants_by_role[distilled_role(name)] = distilled
        variants_by_role[name or PLAIN] = _without_teachers(distilled)
    return variants_by_role


def _with_changes(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with ``changes`` in place."""
    stages, data = experiment.with_values(changes)
    return replace(experiment, stages=stages, data=data)


def _without_teachers(experiment: Experiment) -> Experiment:
    stage_data = experiment.stages[experiment.final_name]
    stages = {**experiment.stages, experiment.final_name: {**stage_data, **labels_only(stage_data)}}
    return replace(experiment, stages=stages)


def check_factorial(experiment: Experiment) -> Iterator[Problem]:
    """What of a factorial cannot be."""
    settings = experiment.factorial
    if settings is None:
        return
    if experiment.search:
        message = "has no place beside search; give the values, or leave it out"
        yield Problem("factorial", message)
    stage_config = experiment.stage_configs.get(experiment.final_name)
    if (
        not isinstance(stage_config, Train)
        or not stage_config.teachers
        or stage_config.objective is None
    ):
        message = f"asks whether teachers help, and {experiment.final_name!r} is not taught by any"
        yield Problem("factorial", message)
        return

    for name, changes in settings.techniques.items():
        if name in BASELINES:
            message = "is how a baseline is called; choose another name"
            yield Problem(f"factorial.techniques.{name}", message)
        try:
            _require_setting_paths(changes, experiment)
            distilled = _with_changes(experiment, changes)
            distilled.stage_graph()
            _without_teachers(distilled).stage_graph()
        except ConfigError as error:
            yield from error.with_prefix(f"factorial.techniques.{name}").problems


def _require_setting_paths(changes: Mapping[str, Any], experiment: Experiment) -> None:
    """Every change is of a setting of an entry, or of the data.

    Raises:
        ConfigError: one is not.
    """
    known_roots = ("data", *experiment.stages)
    unknown_paths = [
        path
        for path in changes
        if split_path(path)[0] not in known_roots or len(split_path(path)) < 2
    ]
    if unknown_paths:
        message = f"names no setting; needs a path like {experiment.final_name}.training.lr"
        raise ConfigError([Problem(path, message) for path in unknown_paths])
