"""The training, validation and test split of a data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillhouse.methods.core.data.base.rng import make_rng
from stillhouse.spaces.config.problems import ConfigError, Problem

Split = Literal["train", "validation", "test"]
Rows = NDArray[np.int64]


class SplitSpec(NamedTuple):
    """How a training part is divided.

    ``validation`` is the fraction of the validation split. ``limit`` is the number of training
    examples (None: all), ``validation_limit`` that of validation examples. All are stratified, and
    the examples of a smaller limit are among those of a larger one. ``classes`` selects examples
    after the division, so it moves none to another split.
    """

    validation: float
    limit: int | None
    seed: int
    classes: tuple[int, ...] | None = None
    validation_limit: int | None = None


def stratified_order(labels: NDArray[np.int64], seed: int) -> Rows:
    """A permutation in which every prefix has the class proportions of the whole.

    The shuffled members of each class are spread evenly over the order, and so are the starting
    points of the classes. Prefixes are nested: the first 1,000 are among the first 2,000.
    """
    rng = make_rng(seed)
    classes, class_codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    start = (rng.permutation(len(classes)) + 0.5) / len(classes)
    position = np.empty(len(labels))
    for code, count in enumerate(counts):
        members = rng.permutation(np.flatnonzero(class_codes == code))
        position[members] = (np.arange(count) + start[code]) / count
    return np.argsort(position, kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Splits:
    """The rows of each split in the source's training part or test part."""

    train: Rows
    validation: Rows
    test: Rows

    def rows(self, split: Split) -> Rows:
        """The rows of one split, ascending."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def sizes(self) -> dict[Split, int]:
        """Number of examples by split."""
        return {
            "train": len(self.train),
            "validation": len(self.validation),
            "test": len(self.test),
        }

    def digest(self) -> str:
        """sha256 (hexadecimal) over all rows; runs with equal digests have equal splits."""
        return self._cached_digest

    @cached_property
    def _cached_digest(self) -> str:
        return array_digest(self.train, self.validation, self.test)


def make_splits(
    labels: NDArray[np.int64], test_labels: NDArray[np.int64], spec: SplitSpec
) -> Splits:
    """The splits of a source with these labels of its training and its test part.

    Raises:
        ConfigError: there is no training example, or a limit exceeds the number of examples.
    """
    train, validation = (
        _rows_of_classes(rows, labels, spec) for rows in _split_orders(labels, spec)
    )
    if not len(train):
        message = f"{spec.validation} leaves nothing of {len(labels)} examples to train on"
        raise ConfigError([Problem("validation", message)])
    _check_limit("limit", "training", spec.limit, train)
    _check_limit("limit.validation", "validation", spec.validation_limit, validation)
    test = _rows_of_classes(np.arange(len(test_labels), dtype=np.int64), test_labels, spec)
    return Splits(np.sort(train[: spec.limit]), np.sort(validation[: spec.validation_limit]), test)


def rows_kept_for_training(labels: NDArray[np.int64], validation: float, seed: int) -> Rows:
    """Examples that stay in the training split although their order puts them into validation.

    They are one of each class without other training examples: accuracy on a class without training
    examples does not measure learning.
    """
    order = stratified_order(labels, seed)
    return _rare_rows(labels, order, round(len(labels) * validation))


def _rare_rows(labels: NDArray[np.int64], order: Rows, num_held_out: int) -> Rows:
    unseen_classes = np.setdiff1d(labels, labels[order[num_held_out:]])
    if not 0 < num_held_out < len(labels) or not len(unseen_classes):
        return order[:0]
    # The last one of a class in the order trains also with a smaller validation share.
    backwards = order[:num_held_out][::-1]
    return np.array(
        [backwards[np.argmax(labels[backwards] == unseen)] for unseen in unseen_classes], np.int64
    )


def _split_orders(labels: NDArray[np.int64], spec: SplitSpec) -> tuple[Rows, Rows]:
    """Training and validation rows, each in the order that limits cut."""
    order = stratified_order(labels, spec.seed)
    num_held_out = round(len(labels) * spec.validation)
    rare = _rare_rows(labels, order, num_held_out)
    held_out = order[:num_held_out]
    return np.concatenate([rare, order[num_held_out:]]), held_out[~np.isin(held_out, rare)]


def _check_limit(path: str, split: str, limit: int | None, rows: Rows) -> None:
    if limit is not None and limit > len(rows):
        message = f"asks for {limit} {split} examples where there are {len(rows)}"
        raise ConfigError([Problem(path, message)])


def _rows_of_classes(rows: Rows, labels: NDArray[np.int64], spec: SplitSpec) -> Rows:
    """The rows whose class is in ``spec.classes``, in the same order."""
    return rows if spec.classes is None else rows[np.isin(labels[rows], spec.classes)]


def array_digest(*parts: NDArray[Any]) -> str:
    """sha256 (hexadecimal) over integer arrays, their lengths included."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part.astype("<i8").tobytes())
    return hasher.hexdigest()
