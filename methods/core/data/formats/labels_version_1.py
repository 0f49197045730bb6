"""Whether an earlier reader of texts gave the same labels, so that what rests on them stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stillhouse.methods.core.data.formats.labels import ClassIndex


def reads_as_version_1(
    classes: ClassIndex, has_given_names: bool, parts: Sequence[Sequence[Any]]
) -> bool:
    """Whether version 1 of the source ``text`` made the same of these labels.

    It took each part for numbers by itself where ``int`` read all of its labels, and without
    ``classes`` made a class of every number up to the highest.

    Args:
        given: whether the setting ``classes`` named the classes.
        parts: the labels of the training part, and of the others.
    """
    is_numeric = _as_integers(parts[0]) is not None
    if is_numeric and not has_given_names and classes.names != _number_names(len(classes.names)):
        return False
    return all(_same_indices(classes, part) for part in parts)


def _same_indices(classes: ClassIndex, labels: Sequence[Any]) -> bool:
    numbers = _as_integers(labels)
    if numbers is None:
        return not classes.by_number
    return bool(numbers == classes.to_indices(labels).tolist())


def _number_names(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _as_integers(labels: Iterable[Any]) -> list[int] | None:
    try:
        if any(isinstance(label, bool | float) for label in labels):
            return None
        return [int(label) for label in labels]
    except ValueError:
        return None
