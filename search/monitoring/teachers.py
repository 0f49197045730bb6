"""The teachers of a student, and warnings about teachers of suspicious accuracy.

A teacher that guesses teaches noise. A teacher with almost no error on the validation split has
probably been trained on that split, so students learn from it about images that judge them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from stillhouse.methods.core.data.class_merging import merged_labels
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import decoded_source, split_spec
from stillhouse.search.artifacts.record import Record
from stillhouse.search.monitoring.events import (
    Event,
    StageChanged,
    TrialStarted,
    TrialWaiting,
    WarningIssued,
)
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.expansion.teachers import teachers_of

SUSPICIOUS_ACCURACY = 0.998
"""Validation accuracy above which weights from elsewhere have probably seen the split."""


def majority_accuracies(student: Stage) -> dict[str, float]:
    """Key of each teacher -> the accuracy of always predicting the most frequent class.

    Teachers without a validation split are left out.
    """
    accuracies = {
        key: majority_accuracy(teacher.data) for key, teacher in teachers_of(student).items()
    }
    return {key: share for key, share in accuracies.items() if share is not None}


def majority_accuracy(data: DataConfig) -> float | None:
    """Share of the most frequent class in the validation split; None if the split is empty."""
    material = decoded_source(data)
    rows = material.splits(split_spec(data)).validation
    if not len(rows):
        return None
    labels = merged_labels(data, material.labels("train")[rows])
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


class TeacherMonitor:
    """Responds to the events of a search with warnings about its teachers.

    Each teacher is checked once, when its record and its use in a trial are both known.
    """

    def __init__(self) -> None:
        self._majority_accuracies: dict[str, float] = {}
        self._records: dict[str, Record] = {}

    def __call__(self, event: Event) -> Iterator[WarningIssued]:
        match event:
            case TrialWaiting() | TrialStarted():
                yield from self._add_teachers(event.chance_accuracies)
            case StageChanged(record=Record() as record):
                self._records.setdefault(event.key, record)
                if event.key in self._majority_accuracies:
                    yield from teacher_warnings(record, self._majority_accuracies[event.key])

    def _add_teachers(self, majority_accuracies: Mapping[str, float]) -> Iterator[WarningIssued]:
        for key in majority_accuracies.keys() - self._majority_accuracies.keys():
            self._majority_accuracies[key] = majority_accuracies[key]
            if key in self._records:
                yield from teacher_warnings(self._records[key], majority_accuracies[key])


def teacher_warnings(record: Record, majority_accuracy: float) -> Iterator[WarningIssued]:
    """Warnings about one teacher; ``majority_accuracy`` is that of its most frequent class."""
    accuracy = record.figures.get("val_accuracy")
    if accuracy is None:
        return
    num_images = record.data.sizes["validation"]
    sampling_noise = 2 * math.sqrt(majority_accuracy * (1 - majority_accuracy) / num_images)
    if accuracy <= majority_accuracy + sampling_noise:
        message = (
            f"this teacher has an accuracy of {accuracy:.4f} on the validation split, and always "
            f"giving the same answer has {majority_accuracy:.4f}; what it teaches is noise: look "
            "at its training, its weights and how they normalise images"
        )
        yield WarningIssued(record.name, message)
    elif accuracy >= SUSPICIOUS_ACCURACY and record.settings.get("weights"):
        message = (
            f"this teacher has an accuracy of {accuracy:.4f} on the validation split, which its "
            "weights have probably been trained on; students then learn about images that judge "
            "them: hold out others, or train a teacher here"
        )
        yield WarningIssued(record.name, message)
