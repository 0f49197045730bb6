"""Whether an earlier reader of texts gave the same labels, so that what rests on them stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stillhouse.methods.core.data.formats.labels import Classes


def as_version_1(classes: Classes, given: bool, parts: Sequence[Sequence[Any]]) -> bool:
    """Whether version 1 of the source ``text`` made the same of these labels.

    It took each part for numbers by itself where ``int`` read all of its labels, and without
    ``classes`` made a class of every number up to the highest.

    Args:
        given: whether the setting ``classes`` named the classes.
        parts: the labels of the training part, and of the others.
    """
    counted = _numbers(parts[0]) is not None
    if counted and not given and classes.names != _counted(len(classes.names)):
        return False
    return all(_same(classes, part) for part in parts)


def _same(classes: Classes, labels: Sequence[Any]) -> bool:
    numbers = _numbers(labels)
    if numbers is None:
        return not classes.by_number
    return bool(numbers == classes.numbers(labels).tolist())


def _counted(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _numbers(labels: Iterable[Any]) -> list[int] | None:
    try:
        if any(isinstance(label, bool | float) for label in labels):
            return None
        return [int(label) for label in labels]
    except ValueError:
        return None
