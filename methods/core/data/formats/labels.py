"""Labels as files hold them, the classes that they make up, and each label's class."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from stillhouse.methods.core.data.base.source import Labels
from stillhouse.spaces.config.problems import unknown

_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Classes:
    """The classes of a set: their names in the order of their numbers.

    The training labels or the setting ``classes`` decide them, and all parts are read by them.
    ``by_number`` says that a label is the number of its class; otherwise it is the class's name.
    """

    names: tuple[str, ...]
    by_number: bool = False

    @classmethod
    def of(cls, training: Iterable[Any], given: Sequence[str] | None = None) -> Classes:
        """The classes of these training labels.

        Without ``given`` every label that occurs is a class: numbers in their order, else names
        in the alphabet's order. With it labels are names, where all are; else they are numbers.

        Raises:
            ValueError: labels that are neither names in ``given`` nor numbers of them.
        """
        found = {str(label) for label in training}
        if given is None:
            numbers = all(map(_NUMBER.fullmatch, found))
            return cls(tuple(sorted(found, key=Decimal if numbers else None)))
        classes = cls(tuple(given), by_number=not found.issubset(given))
        if strange := classes.strange(found):
            raise ValueError(classes.refusal(strange))
        return classes

    def strange(self, labels: Iterable[Any]) -> str | None:
        """A label that is in no class, the first in the alphabet; none if there is none."""
        known = self._known()
        return min({str(label) for label in labels} - known.keys(), default=None)

    def numbers(self, labels: Iterable[Any]) -> Labels:
        """The class of each label, [N].

        Raises:
            ValueError: a label that is in no class.
        """
        labels = list(labels)
        if strange := self.strange(labels):
            raise ValueError(self.refusal(strange))
        known = self._known()
        return np.array([known[str(label)] for label in labels], np.int64)

    def refusal(self, strange: str) -> str:
        """What is wrong with a label that is in no class."""
        if not self.by_number:
            return unknown("label", strange, self.names)
        last = len(self.names) - 1
        return (
            f"label {strange!r} is neither one of the {last + 1} class names nor a number from 0 "
            f"to {last}"
        )

    def _known(self) -> dict[str, int]:
        """Label, as text -> number of its class."""
        texts = map(str, range(len(self.names))) if self.by_number else self.names
        return {text: number for number, text in enumerate(texts)}


def label_fault(label: Any) -> str | None:
    """Why a value cannot be a label; none if it can."""
    if isinstance(label, str):
        if not label.strip():
            return "the label is empty; give the example a label, or leave it out"
        if not _is_text(label):
            return f"the label {label!r} holds half a letter"
        return None
    if isinstance(label, int):
        return None
    if isinstance(label, float) and math.isfinite(label):
        return None
    shown = repr(label)
    shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."
    return f"needs one label, a whole number or a name, found {shown}"


def _is_text(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True
