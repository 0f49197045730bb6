"""The participants of a search: teachers, assistants and students."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.core.formatting import PART_NAMES
from stillhouse.search.results.outcome import Outcome, TrialResult

KEY_LETTERS = 12
"""Letters of a key that are shown."""


PlainMapping = Mapping[str, Any]


def is_assembly_part(record: Record) -> bool:
    """Whether it serves assemblies alone: a part, or an assembly that others are calibrated by."""
    calibrates = record.kind == "assemble" and record.settings.get("share") is not None
    return record.kind in PART_NAMES or calibrates


@dataclass(frozen=True)
class SharedStage:
    """A stage that students rest on. One without parents is a teacher, any other an assistant."""

    key: str
    label: str
    network: str
    record: Record

    @property
    def is_teacher(self) -> bool:
        return not self.record.parents

    def metric(self, name: str) -> float:
        return self.record.figures.get(name, math.nan)


@dataclass(frozen=True)
class Student:
    """The student of a trial. ``taught_by`` holds the keys of its teachers, the closest last."""

    trial: TrialResult
    label: str
    network: str
    taught_by: tuple[str, ...]
    record: Record | None

    def metric(self, name: str) -> float:
        """A metric of the trial, else of its record, else NaN."""
        record_figures = self.record.figures if self.record else {}
        return self.trial.figures.get(name, record_figures.get(name, math.nan))


@dataclass(frozen=True)
class Participants:
    """Shared stages by key, each after those that taught it, and the students by trial."""

    shared: Mapping[str, SharedStage]
    students: tuple[Student, ...]

    def with_metric(self, metric: str) -> list[Student]:
        """The students of whom a figure is known."""
        return [s for s in self.students if math.isfinite(s.metric(metric))]


def find_participants(outcome: Outcome, experiment: PlainMapping) -> Participants:
    """The participants of the trials, without the repetitions over fresh seeds."""
    trials = [trial for trial in outcome.trials if trial.stage_keys]
    shared: dict[str, SharedStage] = {}
    for trial in trials:
        for label, key in list(trial.stage_keys.items())[:-1]:
            record = outcome.records.get(key)
            if record is not None and not is_assembly_part(record) and key not in shared:
                network = _network_name(label, experiment, trial.values)
                shared[key] = SharedStage(key, label, network, record)
    students = [_find_student(trial, outcome, experiment) for trial in trials]
    return Participants(shared, tuple(_with_known_sizes(students)))


def _find_student(trial: TrialResult, outcome: Outcome, experiment: PlainMapping) -> Student:
    label, key = list(trial.stage_keys.items())[-1]
    record = outcome.records.get(key)
    teacher_keys = [
        k for k in list(trial.stage_keys.values())[:-1] if _may_teach(outcome.records.get(k))
    ]
    # An early stopped student left no record: the stages nobody else in its recipe learnt from
    # are its teachers.
    teachers_of_teachers = {parent for k in teacher_keys for parent in outcome.records[k].parents}
    taught_by = (
        record.parents
        if record
        else tuple(k for k in teacher_keys if k not in teachers_of_teachers)
    )
    shown_teachers = tuple(
        parent
        for parent in taught_by
        if parent in outcome.records and not _is_auxiliary(outcome.records[parent])
    )
    return Student(
        trial, label, _network_name(label, experiment, trial.values), shown_teachers, record
    )


def _may_teach(record: Record | None) -> bool:
    """Whether it can be a teacher; students start from assemblies instead."""
    return record is not None and not _is_auxiliary(record) and record.kind != "assemble"


def _is_auxiliary(record: Record) -> bool:
    """Whether no student learns from it or starts from it."""
    return is_assembly_part(record) or record.kind == "distil_data"


def _with_known_sizes(students: list[Student]) -> list[Student]:
    """Give students without a size that of another with the same network settings."""
    sizes = {
        _network_settings(s): s.metric("parameters")
        for s in students
        if math.isfinite(s.metric("parameters"))
    }
    return [_with_size(s, sizes.get(_network_settings(s), math.nan)) for s in students]


def _with_size(student: Student, size: float) -> Student:
    if math.isfinite(student.metric("parameters")) or not math.isfinite(size):
        return student
    figures = {**student.trial.figures, "parameters": size}
    return replace(student, trial=replace(student.trial, figures=figures))


def _network_settings(student: Student) -> str:
    """The searched values that decide the student's network."""
    path = f"{student.label}.network"
    values = student.trial.values
    return repr(sorted((p, v) for p, v in values.items() if p == path or p.startswith(f"{path}.")))


def _network_name(label: str, experiment: PlainMapping, values: PlainMapping) -> str:
    """The network's name as the experiment says it: a link's behind its entry's name."""
    entry, _, link = label.partition("/")
    if link:
        return link
    network = values.get(f"{entry}.network")
    if network is None:
        network = experiment.get("stages", {}).get(entry, {}).get("network", entry)
    if isinstance(network, Mapping):
        return str(network.get("family") or next(iter(network), ""))
    return str(network)
