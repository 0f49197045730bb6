"""Compatibility with version 1 of the source ``text``: stages with equal labels keep their keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stillhouse.methods.core.data.formats.labels import ClassIndex


def reads_as_version_1(
    classes: ClassIndex, has_given_names: bool, parts: Sequence[Sequence[Any]]
) -> bool:
    """Whether version 1 of the source ``text`` gave the same classes for these labels.

    Version 1 read the labels of a part as numbers if ``int`` accepted all of them. Without
    ``classes`` every number up to the largest label was a class.

    Args:
        has_given_names: whether the setting ``classes`` is set.
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
