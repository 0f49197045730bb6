"""Check that all students of an experiment are validated on the same images.

Metrics of different images are not comparable. So neither a search nor a technique of a factorial
may change what decides the validation images: the source and its settings, the split and its seed,
the selected and merged classes, the size of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.search.experiment.checks.paths import path_exists, surroundings
from stillhouse.search.experiment.checks.values import boundary_values
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import FactorialSettings
from stillhouse.search.experiment.setting_paths import split_path, without_wildcard
from stillhouse.search.experiment.variants import check_factorial
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import canonical_json
from stillhouse.spaces.config.problems import ConfigError, Problem

_INCOMPARABLE_MESSAGE = (
    "decides the validation images of students, and metrics of different images are not "
    "comparable; set one value in {place}, and remove it here"
)


def check_comparable(experiment: Experiment) -> Iterator[Problem]:
    """One problem for each searched path and each technique that changes these images."""
    for path, domain in experiment.search.items():
        if _may_change_data(path, experiment) and path_exists(path, experiment):
            plain_path = without_wildcard(path)
            around = surroundings(plain_path, experiment)
            values = [{**around, plain_path: value} for value in boundary_values(domain)]
            if (
                len(
                    {
                        _validation_identity(experiment, values_of_trial)
                        for values_of_trial in values
                    }
                    - {""}
                )
                > 1
            ):
                data_location = (
                    "`data:`"
                    if split_path(path)[0] == "data"
                    else f"the stage {split_path(path)[0]!r}"
                )
                yield Problem(f"search.{path}", _INCOMPARABLE_MESSAGE.format(place=data_location))
    if experiment.factorial and not any(check_factorial(experiment)):
        yield from _check_techniques(experiment, experiment.factorial)


def _check_techniques(experiment: Experiment, settings: FactorialSettings) -> Iterator[Problem]:
    own_data = _validation_identity(experiment, {})
    for name, changes in settings.techniques.items():
        if _validation_identity(experiment, changes) not in ("", own_data):
            data_by_path = {
                path: _validation_identity(experiment, {path: value})
                for path, value in changes.items()
            }
            paths = [
                path
                for path, validation_data in data_by_path.items()
                if validation_data != own_data
            ]
            location = ".".join(("factorial.techniques", name, *paths[:1]))
            yield Problem(location, _INCOMPARABLE_MESSAGE.format(place="`data:`"))


def _may_change_data(path: str, experiment: Experiment) -> bool:
    """Whether a path may change the images; for forgetting, earlier training data counts too."""
    steps = split_path(path)
    return steps[0] == "data" or steps[1] == "data" or _uses_earlier_data(experiment)


def _uses_earlier_data(experiment: Experiment) -> bool:
    metrics = {goal.figure for goal in experiment.goals} | set(experiment.limits)
    return any(metric.endswith(("before", "forgetting")) for metric in metrics)


def _validation_identity(experiment: Experiment, values: Mapping[str, Any]) -> str:
    """What decides the validation images of the student; empty if the values do not fit."""
    try:
        student = experiment.stage_graph(values).student
        identities = [student.data.validation_identity()]
        if isinstance(student.operation, TrainNetwork) and _uses_earlier_data(experiment):
            identities += [data.validation_identity() for data in student.operation.before]
        return canonical_json(identities)
    except ConfigError:
        return ""  # other checks report it
