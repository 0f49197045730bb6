"""Splits: which examples train, which validate, which test."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from methods.core.data.chance import generator
from spaces.problem import ConfigError, Problem

Split = Literal["train", "validation", "test"]
Rows = NDArray[np.int64]


def stratified_order(labels: NDArray[np.int64], seed: int) -> Rows:
    """A permutation whose every prefix has the classes in the proportion of the whole.

    Each class's members, shuffled, are spread evenly over the order; so are the classes'
    starting points. Prefixes are nested: the first 1,000 are among the first 2,000.
    """
    chance = generator(seed)
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    start = (chance.permutation(len(classes)) + 0.5) / len(classes)
    place = np.empty(len(labels))
    for code, count in enumerate(counts):
        members = chance.permutation(np.flatnonzero(codes == code))
        place[members] = (np.arange(count) + start[code]) / count
    return np.argsort(place, kind="stable").astype(np.int64)


def carve(
    labels: NDArray[np.int64], validation: float, limit: int | None, seed: int
) -> tuple[Rows, Rows]:
    """The rows for training and for validation, each ascending.

    ``validation`` is a fraction of all; ``limit`` then keeps so many of the remaining rows. Both
    are stratified, and a smaller limit's rows are among a larger one's.

    Raises:
        ConfigError: nothing is left to train on, or ``limit`` is more than there is.
    """
    order = stratified_order(labels, seed)
    held = round(len(labels) * validation)
    left = len(labels) - held
    if left < 1:
        message = f"{validation} leaves nothing of {len(labels)} examples to train on"
        raise ConfigError([Problem("validation", message)])
    if limit is not None and limit > left:
        message = f"asks for {limit} training examples where there are {left}"
        raise ConfigError([Problem("limit", message)])
    kept = left if limit is None else limit
    return np.sort(order[held : held + kept]), np.sort(order[:held])


def digest(*parts: NDArray[Any]) -> str:
    """sha256 (hexadecimal) over integer arrays, their lengths included."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part.astype("<i8").tobytes())
    return total.hexdigest()
