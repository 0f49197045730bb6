"""Who teaches in a recipe, and whether a teacher that was made is fit to teach.

A teacher that guesses teaches noise. One that makes hardly a mistake on the validation split has
probably learnt from it, and then says more about these images than it should.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from stillhouse.methods.core.data.class_merging import merged_labels
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import cut, opened
from stillhouse.search.artifacts.record import Record
from stillhouse.search.monitoring.events import (
    Event,
    StageChanged,
    TrialStarted,
    TrialWaiting,
    Warned,
)
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork

SUSPICIOUS = 0.998
"""Validation accuracy above which weights from elsewhere have probably seen the split."""
_TEACHES_FIRST = {"boundary", "neighbourhood", "heads", "invert"}
"""Kinds of stage whose first parent teaches."""


def teachers(student: Stage) -> dict[str, Stage]:
    """Key -> stage of every network that teaches the student, or anything it rests on."""
    found: dict[str, Stage] = {}
    for stage in student.lineage():
        taught = stage.parents[:1] if stage.work.kind in _TEACHES_FIRST else ()
        if isinstance(stage.work, TrainNetwork):
            taught = stage.parents[stage.work.leading :]
        found |= {teacher.key: teacher for teacher in taught}
    return found


def guesses(student: Stage) -> dict[str, float]:
    """Key of each teacher -> the accuracy of always giving the most frequent answer there.

    Teachers without a validation split are left out.
    """
    known = {key: guess(teacher.data) for key, teacher in teachers(student).items()}
    return {key: share for key, share in known.items() if share is not None}


def guess(data: DataConfig) -> float | None:
    """The share of the most frequent class of the validation split; none where it is empty."""
    held = opened(data)
    rows = held.splits(cut(data)).validation
    if not len(rows):
        return None
    labels = merged_labels(data, held.labels("train")[rows])
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


class TeacherWatch:
    """Follows the events of a search and answers each with the warnings that it gives cause for.

    A teacher is warned of once, when its record and its part in a trial are both known.
    """

    def __init__(self) -> None:
        self._guesses: dict[str, float] = {}
        self._made: dict[str, Record] = {}

    def __call__(self, event: Event) -> Iterator[Warned]:
        match event:
            case TrialWaiting() | TrialStarted():
                yield from self._look(event.teachers)
            case StageChanged(record=Record() as record):
                self._made.setdefault(event.key, record)
                if event.key in self._guesses:
                    yield from warnings_of(record, self._guesses[event.key])

    def _look(self, guesses: Mapping[str, float]) -> Iterator[Warned]:
        for key in guesses.keys() - self._guesses.keys():
            self._guesses[key] = guesses[key]
            if key in self._made:
                yield from warnings_of(self._made[key], guesses[key])


def warnings_of(record: Record, guess: float) -> Iterator[Warned]:
    """What is odd about a teacher.

    Args:
        guess: accuracy of always giving the most frequent answer.
    """
    accuracy = record.figures.get("val_accuracy")
    if accuracy is None:
        return
    images = record.facts["data"]["sizes"]["validation"]
    noise = 2 * math.sqrt(guess * (1 - guess) / images)
    if accuracy <= guess + noise:
        message = (
            f"this teacher has an accuracy of {accuracy:.4f} on the validation split, and always "
            f"giving the same answer has {guess:.4f}; what it teaches is noise: look at its "
            "training, its weights and how they normalise images"
        )
        yield Warned(record.name, message)
    elif accuracy >= SUSPICIOUS and (record.identity.get("work") or {}).get("weights"):
        message = (
            f"this teacher has an accuracy of {accuracy:.4f} on the validation split, which its "
            "weights have probably been trained on; students then learn about images that judge "
            "them: hold out others, or train a teacher here"
        )
        yield Warned(record.name, message)
