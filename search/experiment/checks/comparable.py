"""Whether all students of an experiment are judged by the same validation images.

Figures of different images do not compare. So nothing that decides the validation images may be
searched or be a technique of a factorial: the source and its settings, the split and its seed, the
classes that are left, how classes are merged, the size of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.search.experiment.checks.paths import exists, surroundings
from stillhouse.search.experiment.checks.values import extremes
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import Factorial
from stillhouse.search.experiment.setting_paths import parts, without_star
from stillhouse.search.experiment.variants import check_factorial
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import canonical_json
from stillhouse.spaces.config.problems import ConfigError, Problem

_INCOMPARABLE = (
    "decides by which images students are judged, and figures of different images do not compare; "
    "set one value in {place}, and leave it out here"
)


def check_comparable(experiment: Experiment) -> Iterator[Problem]:
    """One problem for each searched path, and each technique, that changes these images."""
    for path, domain in experiment.search.items():
        if _about_data(path, experiment) and exists(path, experiment):
            common = without_star(path)
            around = surroundings(common, experiment)
            values = [{**around, common: value} for value in extremes(domain)]
            if len({_judged_by(experiment, each) for each in values} - {""}) > 1:
                place = "`data:`" if parts(path)[0] == "data" else f"the stage {parts(path)[0]!r}"
                yield Problem(f"search.{path}", _INCOMPARABLE.format(place=place))
    if experiment.factorial and not any(check_factorial(experiment)):
        yield from _check_techniques(experiment, experiment.factorial)


def _check_techniques(experiment: Experiment, asked: Factorial) -> Iterator[Problem]:
    own = _judged_by(experiment, {})
    for name, changes in asked.techniques.items():
        if _judged_by(experiment, changes) not in ("", own):
            alone = {path: _judged_by(experiment, {path: value}) for path, value in changes.items()}
            paths = [path for path, judged in alone.items() if judged != own]
            where = ".".join(("factorial.techniques", name, *paths[:1]))
            yield Problem(where, _INCOMPARABLE.format(place="`data:`"))


def _about_data(path: str, experiment: Experiment) -> bool:
    """Whether a path may change the images. What the start learnt from counts for forgetting."""
    steps = parts(path)
    return steps[0] == "data" or steps[1] == "data" or _asks_before(experiment)


def _asks_before(experiment: Experiment) -> bool:
    wanted = {goal.figure for goal in experiment.goals} | set(experiment.limits)
    return any(figure.endswith(("before", "forgetting")) for figure in wanted)


def _judged_by(experiment: Experiment, values: Mapping[str, Any]) -> str:
    """What decides the images that the student is judged by; empty where values do not fit."""
    try:
        student = experiment.recipe(values).student
        told = [student.data.judged_on()]
        if isinstance(student.work, TrainNetwork) and _asks_before(experiment):
            told += [data.judged_on() for data in student.work.before]
        return canonical_json(told)
    except ConfigError:
        return ""  # the other checks say why
