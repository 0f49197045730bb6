"""Who took part in a search: teachers, assistants and students, and who taught whom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.core.formatting import PARTS
from stillhouse.search.results.outcome import Outcome, Trial

SHORT = 12
"""Letters of a key that are shown."""


Plain = Mapping[str, Any]


def is_part(record: Record) -> bool:
    """Whether it serves assemblies alone: a part, or an assembly that others are calibrated by."""
    calibrates = record.kind == "assemble" and record.identity["work"].get("share") is not None
    return record.kind in PARTS or calibrates


@dataclass(frozen=True)
class Shared:
    """A stage that students rest on. One without parents is a teacher, any other an assistant."""

    key: str
    label: str
    name: str
    record: Record

    @property
    def root(self) -> bool:
        return not self.record.parents

    def figure(self, figure: str) -> float:
        return self.record.figures.get(figure, math.nan)


@dataclass(frozen=True)
class Student:
    """What a trial made or tried to make. ``taught_by`` holds keys, the closest teacher last."""

    trial: Trial
    label: str
    network: str
    taught_by: tuple[str, ...]
    record: Record | None

    def figure(self, figure: str) -> float:
        """A figure of the trial, else of its record, else not a number."""
        own = self.record.figures if self.record else {}
        return self.trial.figures.get(figure, own.get(figure, math.nan))


@dataclass(frozen=True)
class Cast:
    """Shared stages by key, each after those that taught it, and the students by trial."""

    shared: Mapping[str, Shared]
    students: tuple[Student, ...]

    def seen(self, figure: str) -> list[Student]:
        """The students of whom a figure is known."""
        return [s for s in self.students if math.isfinite(s.figure(figure))]


def cast(outcome: Outcome, experiment: Plain) -> Cast:
    """Who took part in the trials; what was made again over fresh seeds is left out."""
    tried = [trial for trial in outcome.trials if trial.keys]
    shared: dict[str, Shared] = {}
    for trial in tried:
        for label, key in list(trial.keys.items())[:-1]:
            record = outcome.stages.get(key)
            if record is not None and not is_part(record) and key not in shared:
                name = _network(label, experiment, trial.values)
                shared[key] = Shared(key, label, name, record)
    students = [_student(trial, outcome, experiment) for trial in tried]
    return Cast(shared, tuple(_sized(students)))


def _student(trial: Trial, outcome: Outcome, experiment: Plain) -> Student:
    label, key = list(trial.keys.items())[-1]
    record = outcome.stages.get(key)
    rest = [k for k in list(trial.keys.values())[:-1] if _teaches(outcome.stages.get(k))]
    # An early stopped student left no record: the stages nobody else in its recipe learnt from
    # are its teachers.
    used = {parent for k in rest for parent in outcome.stages[k].parents}
    taught_by = record.parents if record else tuple(k for k in rest if k not in used)
    known = tuple(
        parent
        for parent in taught_by
        if parent in outcome.stages and not _serves(outcome.stages[parent])
    )
    return Student(trial, label, _network(label, experiment, trial.values), known, record)


def _teaches(record: Record | None) -> bool:
    """Whether it may be someone's teacher; from assemblies students go on."""
    return record is not None and not _serves(record) and record.kind != "assemble"


def _serves(record: Record) -> bool:
    """Whether it is no network that someone learns from, or goes on from."""
    return is_part(record) or record.kind == "distil_data"


def _sized(students: list[Student]) -> list[Student]:
    """Give students without a size that of another with the same network settings."""
    sizes = {
        _architecture(s): s.figure("parameters")
        for s in students
        if math.isfinite(s.figure("parameters"))
    }
    return [_with_size(s, sizes.get(_architecture(s), math.nan)) for s in students]


def _with_size(student: Student, size: float) -> Student:
    if math.isfinite(student.figure("parameters")) or not math.isfinite(size):
        return student
    figures = {**student.trial.figures, "parameters": size}
    return replace(student, trial=replace(student.trial, figures=figures))


def _architecture(student: Student) -> str:
    """What of the searched values decides the student's network."""
    place = f"{student.label}.network"
    values = student.trial.values
    return repr(
        sorted((p, v) for p, v in values.items() if p == place or p.startswith(f"{place}."))
    )


def _network(label: str, experiment: Plain, values: Plain) -> str:
    """The network's name as the experiment says it: a link's behind its entry's name."""
    entry, _, link = label.partition("/")
    if link:
        return link
    said = values.get(f"{entry}.network")
    if said is None:
        said = experiment.get("stages", {}).get(entry, {}).get("network", entry)
    if isinstance(said, Mapping):
        return str(said.get("family") or next(iter(said), ""))
    return str(said)
