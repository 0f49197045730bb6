"""Labels in files, and their classes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from stillhouse.methods.core.data.base.source import Labels
from stillhouse.spaces.config.problems import unknown_message

_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_MAX_LABEL_LENGTH = 60


@dataclass(frozen=True)
class ClassIndex:
    """The class names of a set, in the order of their numbers.

    They come from the training labels or from the setting ``classes`` and are used for all parts.
    With ``by_number`` a label is the number of its class; otherwise it is the name.
    """

    names: tuple[str, ...]
    by_number: bool = False

    @classmethod
    def from_labels(cls, labels: Iterable[Any], names: Sequence[str] | None = None) -> ClassIndex:
        """The classes of these training labels.

        Without ``names`` every label is a class: numbers in numeric order, otherwise names in
        alphabetical order. With ``names`` labels are names if all of them are in ``names``;
        otherwise they are numbers.

        Raises:
            ValueError: a label is neither in ``names`` nor a number of one.
        """
        label_texts = {str(label) for label in labels}
        if names is None:
            numbers = all(map(_NUMBER.fullmatch, label_texts))
            return cls(tuple(sorted(label_texts, key=Decimal if numbers else None)))
        classes = cls(tuple(names), by_number=not label_texts.issubset(names))
        if unknown_label := classes.first_unknown(label_texts):
            raise ValueError(classes.unknown_label_message(unknown_label))
        return classes

    def first_unknown(self, labels: Iterable[Any]) -> str | None:
        """The first unknown label in alphabetical order; None if there is none."""
        index = self._index_by_label()
        return min({str(label) for label in labels} - index.keys(), default=None)

    def to_indices(self, labels: Iterable[Any]) -> Labels:
        """The class number of each label, [N].

        Raises:
            ValueError: a label is unknown.
        """
        labels = list(labels)
        if unknown_label := self.first_unknown(labels):
            raise ValueError(self.unknown_label_message(unknown_label))
        index = self._index_by_label()
        return np.array([index[str(label)] for label in labels], np.int64)

    def unknown_label_message(self, label: str) -> str:
        """The message for an unknown label."""
        if not self.by_number:
            return unknown_message("label", label, self.names)
        last = len(self.names) - 1
        return (
            f"label {label!r} is neither one of the {last + 1} class names nor a number from 0 "
            f"to {last}"
        )

    def _index_by_label(self) -> dict[str, int]:
        """Label as text -> class number."""
        texts = map(str, range(len(self.names))) if self.by_number else self.names
        return {text: number for number, text in enumerate(texts)}


def label_error(label: Any) -> str | None:
    """Why a value cannot be a label; None if it can."""
    if isinstance(label, str):
        if not label.strip():
            return "the label is empty; give the example a label, or leave it out"
        if not _is_valid_text(label):
            return f"the label {label!r} is no valid Unicode text"
        return None
    if isinstance(label, int):
        return None
    if isinstance(label, float) and math.isfinite(label):
        return None
    text = repr(label)
    text = text if len(text) <= _MAX_LABEL_LENGTH else f"{text[:_MAX_LABEL_LENGTH]}..."
    return f"needs one label, a whole number or a name, found {text}"


def _is_valid_text(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True
