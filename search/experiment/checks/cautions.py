"""Warnings about the setup of a valid experiment, known before anything runs.

The other checks refuse what certainly fails. ``stillhouse check`` and ``launch`` show these
warnings, one line each. Warnings about a teacher that has been built are in
``stillhouse.search.monitoring.teachers``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import decoded_source, facts, split_spec
from stillhouse.search.experiment.checks.paths import surroundings
from stillhouse.search.experiment.checks.values import boundary_values
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.initial_points import values_outside_space
from stillhouse.search.experiment.schema import TOP_LEVEL_FIELDS
from stillhouse.search.experiment.setting_paths import split_path, without_wildcard
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.expansion.teachers import direct_teachers, teachers_of
from stillhouse.spaces.config.problems import ConfigError, Problem

_SIZE_FIELDS = {"network", "networks", "teacher", "teachers"}
"""Fields that decide the size of a student or its teachers."""


def setup_warnings(experiment: Experiment) -> tuple[Problem, ...]:
    """All warnings about a valid experiment, each once."""
    graph = experiment.stage_graph()
    warnings = [
        *_data_warnings(experiment, graph),
        *_name_warnings(experiment),
        *_initial_point_warnings(experiment),
        *_normalisation_warnings(graph),
        *_size_warnings(experiment, graph),
        *_overlap_warnings(graph.student),
    ]
    return tuple(dict.fromkeys(warnings))


def _data_warnings(experiment: Experiment, graph: StageGraph) -> Iterator[Problem]:
    """Notes of the data sets: examples left out, classes without an example."""
    for note in facts(experiment.data).notes:
        yield Problem("data", note)
    for name, expanded in graph.expanded_stages.items():
        if experiment.stage_configs[name].data:
            for note in facts(expanded.stage.data).notes:
                yield Problem(f"stages.{name}.data", note)


def _name_warnings(experiment: Experiment) -> Iterator[Problem]:
    for name in experiment.stages:
        if name in TOP_LEVEL_FIELDS:
            message = (
                f"has the name of the top-level field {name!r}; --set reaches it only as "
                f"stages.{name}"
            )
            yield Problem(f"stages.{name}", message)


def _initial_point_warnings(experiment: Experiment) -> Iterator[Problem]:
    """Values of the file that the first trial cannot take."""
    if experiment.run.start == "file":
        for path, value in values_outside_space(experiment).items():
            domain = experiment.search.get(path)
            domain_text = f" ({domain})" if domain else ""
            message = (
                f"the file contains {value!r}, which is not among the searched values"
                f"{domain_text}; the first trial takes one of these instead"
            )
            yield Problem(f"search.{path}", message)


def _normalisation_warnings(graph: StageGraph) -> Iterator[Problem]:
    """Means and deviations that do not fit images in 0..1 with one value per channel."""
    for name, expanded in graph.expanded_stages.items():
        weights = getattr(expanded.stage.operation, "weights", None)
        if weights is not None and weights.mean and weights.std:
            location, channels = f"stages.{name}.weights", facts(expanded.stage.data).shape[0]
            yield from _scale_warnings(f"{location}.mean", weights.mean, weights.std)
            if len(weights.mean) == 1 < channels:
                message = f"has one value for {channels} channels; all channels use it"
                yield Problem(f"{location}.mean", message)
    normalise = graph.student.data.normalise
    if normalise is not None:
        yield from _scale_warnings("data.normalise.mean", normalise.mean, normalise.std)


def _scale_warnings(
    location: str, mean: Sequence[float], std: Sequence[float]
) -> Iterator[Problem]:
    if max((*map(abs, mean), *std)) > 1:
        message = (
            f"found mean {list(mean)} and std {list(std)}, but images are in 0..1; divide "
            "values for images in 0..255 by 255"
        )
        yield Problem(location, message)


def _size_warnings(experiment: Experiment, graph: StageGraph) -> Iterator[Problem]:
    """Students that are larger than one of their teachers, as written or as searched."""
    largest: dict[tuple[str, str], tuple[float, float]] = {}
    for student in (graph.student, *_students_of_searched_sizes(experiment)):
        student_size = _num_parameters(student)
        for teacher in direct_teachers(student):
            pair, size = (student.label, teacher.label), _num_parameters(teacher)
            if size and student_size > max(size, largest.get(pair, (0.0, 0.0))[0]):
                largest[pair] = (student_size, size)
    for (student_name, teacher_name), (student_size, size) in largest.items():
        message = (
            f"has {student_size:,.0f} parameters, and its teacher {teacher_name!r} has "
            f"{size:,.0f}; are the two networks exchanged?"
        )
        yield Problem(f"stages.{student_name}.network", message)


def _students_of_searched_sizes(experiment: Experiment) -> Iterator[Stage]:
    """The student with the boundary values of each searched path that decides its size."""
    for path, domain in experiment.search.items():
        if split_path(path)[0] == experiment.final_name and split_path(path)[1] in _SIZE_FIELDS:
            plain_path = without_wildcard(path)
            for value in boundary_values(domain):
                with contextlib.suppress(ConfigError):
                    around = surroundings(plain_path, experiment)
                    yield experiment.stage_graph({**around, plain_path: value}).student


def _num_parameters(stage: Stage) -> float:
    return stage.operation.costs(stage.data).get("parameters", 0.0)


def _overlap_warnings(student: Stage) -> Iterator[Problem]:
    """Stages that train on validation images of the student."""
    validation_rows, teaching_keys = _validation_rows(student.data), teachers_of(student)
    for stage in student.ancestors():
        is_trained = getattr(stage.operation, "objective", None) or getattr(
            stage.operation, "training", None
        )
        if (
            stage.data == student.data
            or not is_trained
            or _data_source(stage) != _data_source(student)
        ):
            continue
        overlap = len(
            np.intersect1d(
                decoded_source(stage.data).splits(split_spec(stage.data)).train, validation_rows
            )
        )
        if overlap:
            role = "teacher" if stage.key in teaching_keys else "stage"
            message = (
                f"this {role} trains on {overlap} of the {len(validation_rows)} validation images "
                f"of {student.label!r}; give both the same validation and split_seed"
            )
            yield Problem(f"stages.{stage.label}", message)


def _validation_rows(data: DataConfig) -> np.ndarray:
    return decoded_source(data).splits(split_spec(data)).validation


def _data_source(stage: Stage) -> tuple[str, str]:
    name, source = stage.data.named_source()
    return name, source.fingerprint()
