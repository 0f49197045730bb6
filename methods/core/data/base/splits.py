"""Splits: which examples train, which validate, which test."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillhouse.methods.core.data.base.rng import generator
from stillhouse.spaces.config.problems import ConfigError, Problem

Split = Literal["train", "validation", "test"]
Rows = NDArray[np.int64]


class Cut(NamedTuple):
    """How a training part is divided.

    ``validation`` is a fraction of all; of the rest, ``limit`` examples are kept (none: all).
    Both are stratified, and a smaller limit's examples are among a larger one's. With
    ``classes``, only examples of these are in any split, each in that where it is without them.
    ``validation_limit`` does for the held-out examples what ``limit`` does for the others.
    """

    validation: float
    limit: int | None
    seed: int
    classes: tuple[int, ...] | None = None
    validation_limit: int | None = None


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


@dataclass(frozen=True)
class Splits:
    """Which rows make up each split: of the source's training part, and of its test part."""

    train: Rows
    validation: Rows
    test: Rows

    def rows(self, split: Split) -> Rows:
        """The rows of one split, ascending."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def sizes(self) -> dict[Split, int]:
        """How many examples each split has."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
        }

    def digest(self) -> str:
        """sha256 (hexadecimal) over all rows: two runs that agree saw the same examples."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return digest(self.train, self.validation, self.test)


def carve(labels: NDArray[np.int64], tests: NDArray[np.int64], cut: Cut) -> Splits:
    """The splits of a source with these labels of its training and its test part.

    Raises:
        ConfigError: nothing is left to train on, or a limit is more than there is.
    """
    train, validation = (_wanted(rows, labels, cut) for rows in _divided(labels, cut))
    if not len(train):
        message = f"{cut.validation} leaves nothing of {len(labels)} examples to train on"
        raise ConfigError([Problem("validation", message)])
    _check_limit("limit", "training", cut.limit, train)
    _check_limit("limit.validation", "validation", cut.validation_limit, validation)
    test = _wanted(np.arange(len(tests), dtype=np.int64), tests, cut)
    return Splits(np.sort(train[: cut.limit]), np.sort(validation[: cut.validation_limit]), test)


def kept_to_train(labels: NDArray[np.int64], validation: float, seed: int) -> Rows:
    """The examples that train although their place in the order would hold them out.

    They are one of each class of which nothing else would train. A class that no network was
    ever shown says nothing about how well the networks learn.
    """
    order = stratified_order(labels, seed)
    return _kept(labels, order, round(len(labels) * validation))


def _kept(labels: NDArray[np.int64], order: Rows, held: int) -> Rows:
    unseen = np.setdiff1d(labels, labels[order[held:]])
    if not 0 < held < len(labels) or not len(unseen):
        return order[:0]
    # The last of a class in the order is the one that a smaller share would not hold out.
    backwards = order[:held][::-1]
    return np.array([backwards[np.argmax(labels[backwards] == each)] for each in unseen], np.int64)


def _divided(labels: NDArray[np.int64], cut: Cut) -> tuple[Rows, Rows]:
    """The rows that train and those that are held out, each in an order for limits."""
    order = stratified_order(labels, cut.seed)
    held = round(len(labels) * cut.validation)
    kept = _kept(labels, order, held)
    out = order[:held]
    return np.concatenate([kept, order[held:]]), out[~np.isin(out, kept)]


def _check_limit(path: str, split: str, limit: int | None, rows: Rows) -> None:
    if limit is not None and limit > len(rows):
        message = f"asks for {limit} {split} examples where there are {len(rows)}"
        raise ConfigError([Problem(path, message)])


def _wanted(rows: Rows, labels: NDArray[np.int64], cut: Cut) -> Rows:
    """Of some rows those whose class is wanted, in the same order."""
    return rows if cut.classes is None else rows[np.isin(labels[rows], cut.classes)]


def digest(*parts: NDArray[Any]) -> str:
    """sha256 (hexadecimal) over integer arrays, their lengths included."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part.astype("<i8").tobytes())
    return total.hexdigest()
