"""What looks wrong in an experiment, and may be meant: warnings, known before anything runs.

Whatever certainly fails is refused by :mod:`stillhouse.search.experiment.checks`. ``stillhouse
check`` and ``launch`` show these warnings, one line each. What is known of teachers only once they
are made is the matter of :mod:`stillhouse.search.monitoring.teachers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import cut, facts, opened
from stillhouse.search.experiment.checks.paths import surroundings
from stillhouse.search.experiment.checks.values import extremes
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.initial_points import outside
from stillhouse.search.experiment.loading import TOP_LEVEL
from stillhouse.search.experiment.setting_paths import parts, without_star
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.monitoring.events import Warned
from stillhouse.search.monitoring.teachers import teachers
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.problems import ConfigError

_SIZES = {"network", "networks", "teacher", "teachers"}
"""Fields that decide how large a student is, and who teaches it."""


def cautions(experiment: Experiment) -> tuple[Warned, ...]:
    """All warnings about a valid experiment, each once."""
    recipe = experiment.recipe()
    found = [
        *_data(experiment, recipe),
        *_names(experiment),
        *_starts(experiment),
        *_normalisation(recipe),
        *_sizes(experiment, recipe),
        *_seen(recipe.student),
    ]
    return tuple(dict.fromkeys(found))


def _data(experiment: Experiment, recipe: Recipe) -> Iterator[Warned]:
    """What is left out of data sets, and classes that have no example."""
    for note in facts(experiment.data).notes:
        yield Warned("data", note)
    for name, entry in recipe.entries.items():
        if experiment.entries[name].data:
            for note in facts(entry.stage.data).notes:
                yield Warned(f"stages.{name}.data", note)


def _names(experiment: Experiment) -> Iterator[Warned]:
    for name in experiment.stages:
        if name in TOP_LEVEL:
            message = (
                f"is called like the file's own field {name!r}; with --set it is reached as "
                f"stages.{name} alone"
            )
            yield Warned(f"stages.{name}", message)


def _starts(experiment: Experiment) -> Iterator[Warned]:
    """Values of the file that its first trial will not have."""
    if experiment.run.start == "file":
        for path, value in outside(experiment).items():
            domain = experiment.search.get(path)
            among = f" ({domain})" if domain else ""
            message = (
                f"the file holds {value!r}, which is not among the searched values{among}; the "
                "first trial takes one of these instead"
            )
            yield Warned(f"search.{path}", message)


def _normalisation(recipe: Recipe) -> Iterator[Warned]:
    """Means and deviations that are not those of images in 0..1, a value a channel."""
    for name, entry in recipe.entries.items():
        weights = getattr(entry.stage.work, "weights", None)
        if weights is not None and weights.mean and weights.std:
            place, channels = f"stages.{name}.weights", facts(entry.stage.data).shape[0]
            yield from _moments(f"{place}.mean", weights.mean, weights.std)
            if len(weights.mean) == 1 < channels:
                message = f"gives one value for {channels} channels; each of them gets it"
                yield Warned(f"{place}.mean", message)
    normalise = recipe.student.data.normalise
    if normalise is not None:
        yield from _moments("data.normalise.mean", normalise.mean, normalise.std)


def _moments(place: str, mean: Sequence[float], std: Sequence[float]) -> Iterator[Warned]:
    if max((*map(abs, mean), *std)) > 1:
        message = (
            f"found mean {list(mean)} and std {list(std)}, and images here are in 0..1; values "
            "for images in 0..255 have to be divided by 255"
        )
        yield Warned(place, message)


def _sizes(experiment: Experiment, recipe: Recipe) -> Iterator[Warned]:
    """Students that are larger than a teacher of theirs, as written or as searched."""
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for student in (recipe.student, *_searched(experiment)):
        if isinstance(student.work, TrainNetwork):
            own = _parameters(student)
            for teacher in student.parents[student.work.leading :]:
                pair, size = (student.label, teacher.label), _parameters(teacher)
                if own and size and own > max(size, largest.get(pair, (0.0, 0.0))[0]):
                    largest[pair] = (own, size)
    for (student_name, teacher_name), (own, size) in largest.items():
        message = (
            f"has {own:,.0f} parameters, and {teacher_name!r}, which teaches it, has {size:,.0f}; "
            "are the two networks exchanged?"
        )
        yield Warned(f"stages.{student_name}.network", message)


def _searched(experiment: Experiment) -> Iterator[Stage]:
    """The student with each value of a searched path that decides sizes."""
    for path, domain in experiment.search.items():
        if parts(path)[0] == experiment.final and parts(path)[1] in _SIZES:
            common = without_star(path)
            for value in extremes(domain):
                with contextlib.suppress(ConfigError):
                    around = surroundings(common, experiment)
                    yield experiment.recipe({**around, common: value}).student


def _parameters(stage: Stage) -> float:
    return stage.work.costs(stage.data).get("parameters", 0.0)


def _seen(student: Stage) -> Iterator[Warned]:
    """Stages that learn from images by which the student is judged."""
    judged, taught = _rows(student.data), teachers(student)
    for stage in student.lineage():
        learns = getattr(stage.work, "objective", None) or getattr(stage.work, "training", None)
        if stage.data == student.data or not learns or _origin(stage) != _origin(student):
            continue
        count = len(np.intersect1d(opened(stage.data).splits(cut(stage.data)).train, judged))
        if count:
            role = "teacher" if stage.key in taught else "stage"
            message = (
                f"this {role} learns from {count} of the {len(judged)} images by which "
                f"{student.label!r} is judged; give both the same validation and split_seed"
            )
            yield Warned(f"stages.{stage.label}", message)


def _rows(data: DataConfig) -> np.ndarray:
    return opened(data).splits(cut(data)).validation


def _origin(stage: Stage) -> tuple[str, str]:
    name, source = stage.data.origin()
    return name, source.fingerprint()
