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
"""Roles of baselines, in the order of the report."""
PLAIN, DISTILLED = "plain", "trial 0"
"""Roles of the student as written: trained on labels only, and with its teachers."""


def distilled_role(technique: str) -> str:
    """Role of the student of a technique with teachers; without, the role is ``technique``."""
    return f"{technique} + teacher" if technique else DISTILLED


def labels_only(stage_data: Mapping[str, Any]) -> dict[str, Any]:
    """Changes that make an entry learn from labels only."""
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
    """The experiment with ``changes`` applied."""
    stages, data = experiment.with_values(changes)
    return replace(experiment, stages=stages, data=data)


def _without_teachers(experiment: Experiment) -> Experiment:
    stage_data = experiment.stages[experiment.final_name]
    stages = {**experiment.stages, experiment.final_name: {**stage_data, **labels_only(stage_data)}}
    return replace(experiment, stages=stages)


def check_factorial(experiment: Experiment) -> Iterator[Problem]:
    """Problems of ``factorial:``."""
    settings = experiment.factorial
    if settings is None:
        return
    if experiment.search:
        message = "cannot be combined with search; write single values, or remove it"
        yield Problem("factorial", message)
    stage_config = experiment.stage_configs.get(experiment.final_name)
    if (
        not isinstance(stage_config, Train)
        or not stage_config.teachers
        or stage_config.objective is None
    ):
        message = (
            f"compares with and without teachers, but {experiment.final_name!r} has no teacher"
        )
        yield Problem("factorial", message)
        return

    for name, changes in settings.techniques.items():
        if name in BASELINES:
            message = "is the name of a baseline; choose another name"
            yield Problem(f"factorial.techniques.{name}", message)
        try:
            _require_setting_paths(changes, experiment)
            distilled = _with_changes(experiment, changes)
            distilled.stage_graph()
            _without_teachers(distilled).stage_graph()
        except ConfigError as error:
            yield from error.with_prefix(f"factorial.techniques.{name}").problems


def _require_setting_paths(changes: Mapping[str, Any], experiment: Experiment) -> None:
    """Check that every change names a setting of an entry or of the data.

    Raises:
        ConfigError: one does not.
    """
    known_roots = ("data", *experiment.stages)
    unknown_paths = [
        path
        for path in changes
        if split_path(path)[0] not in known_roots or len(split_path(path)) < 2
    ]
    if unknown_paths:
        message = f"names no setting; needs a path such as {experiment.final_name}.training.lr"
        raise ConfigError([Problem(path, message) for path in unknown_paths])
