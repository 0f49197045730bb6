"""Splits are stratified, disjoint, complete, nested and fixed by their seed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillhouse.methods.core.data.base.splits import (
    SplitSpec,
    array_digest,
    make_splits,
    rows_kept_for_training,
    stratified_order,
)
from stillhouse.spaces.config.problems import ConfigError


def part(count: int) -> NDArray[np.int64]:
    """The labels of a test part."""
    return np.zeros(count, np.int64)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 2**40))
def test_every_prefix_has_the_proportions_of_the_whole(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    share = np.array(counts) / len(labels)
    for length in range(len(labels) + 1):
        found = np.bincount(labels[order[:length]], minlength=len(counts))
        assert np.abs(found - length * share).max() <= len(counts)


@pytest.mark.parametrize("length", [1, 7, 10, 95, 100, 995])
def test_equal_classes_differ_by_one_at_most(length: int) -> None:
    labels = np.tile(np.arange(10), 100)
    found = np.bincount(labels[stratified_order(labels, 3)[:length]], minlength=10)
    assert found.max() - found.min() <= 1


def test_rare_classes_do_not_crowd_out_a_frequent_one() -> None:
    labels = np.concatenate([np.zeros(1000, int), np.repeat(np.arange(1, 101), 2)])
    first = labels[stratified_order(labels, 0)[:360]]
    assert abs((first == 0).sum() - 300) <= 2


def test_splits_are_disjoint_complete_and_stratified() -> None:
    labels = np.random.default_rng(0).permutation(np.tile(np.arange(5), 40))
    splits = make_splits(labels, part(50), SplitSpec(0.25, None, 1))
    assert splits.sizes() == {"train": 150, "validation": 50, "test": 50}
    together = np.sort(np.concatenate([splits.train, splits.validation]))
    assert np.array_equal(together, np.arange(200))
    assert (np.bincount(labels[splits.validation]) == 10).all()
    assert (np.bincount(labels[splits.train]) == 30).all()
    assert np.array_equal(splits.test, np.arange(50))
    assert (np.diff(splits.train) > 0).all()


def test_the_seed_decides() -> None:
    labels = np.tile(np.arange(5), 40)
    one, again, other = (
        make_splits(labels, part(0), SplitSpec(0.1, None, seed)) for seed in (7, 7, 8)
    )
    assert np.array_equal(one.train, again.train)
    assert not np.array_equal(one.train, other.train)
    assert one.digest() == again.digest() != other.digest()


def test_a_split_drawn_once_is_drawn_for_ever() -> None:
    """NumPy's frozen stream: these rows may never change, as results are kept under their key."""
    splits = make_splits(np.tile(np.arange(3), 4), part(2), SplitSpec(0.25, 6, 0))
    assert splits.validation.tolist() == [2, 3, 4]
    assert splits.train.tolist() == [0, 5, 7, 8, 9, 10]


def test_limits_are_nested_stratified_and_leave_validation_alone() -> None:
    labels = np.tile(np.arange(4), 50)
    full, large, small = (
        make_splits(labels, part(0), SplitSpec(0.1, limit, 0)) for limit in (None, 80, 20)
    )
    assert set(small.train) < set(large.train) < set(full.train)
    assert (np.bincount(labels[small.train]) == 5).all()
    assert np.array_equal(small.validation, full.validation)


def test_no_validation_keeps_everything() -> None:
    splits = make_splits(np.tile(np.arange(4), 5), part(0), SplitSpec(0.0, None, 0))
    assert splits.sizes() == {"train": 20, "validation": 0, "test": 0}


@pytest.mark.parametrize(
    ("cut", "path", "message"),
    [
        (SplitSpec(0.5, 11, 0), "limit", "asks for 11 training examples where there are 10"),
        (SplitSpec(0.99, None, 0), "validation", "leaves nothing of 20 examples"),
    ],
)
def test_impossible_splits_are_refused(cut: SplitSpec, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_splits(np.tile(np.arange(4), 5), part(0), cut)
    assert caught.value.problems[0].path == path


def test_digest_is_sha256_over_lengths_and_rows() -> None:
    rows = np.array([1, 2], np.int32)
    plain = (2).to_bytes(8, "little") + (1).to_bytes(8, "little") + (2).to_bytes(8, "little")
    assert array_digest(rows) == hashlib.sha256(plain).hexdigest()
    assert array_digest(np.array([1]), np.array([2])) != array_digest(
        np.array([1, 2]), np.array([], int)
    )


def test_classes_left_out_change_no_other_example_of_any_split() -> None:
    labels = np.random.default_rng(0).permutation(np.tile(np.arange(5), 40))
    last = np.tile(np.arange(5), 3)
    whole, some, other = (
        make_splits(labels, last, SplitSpec(0.25, None, 1, classes))
        for classes in (None, (0, 3), (1, 2, 4))
    )
    for split, of in (("train", labels), ("validation", labels), ("test", last)):
        kept = whole.rows(split)[np.isin(of[whole.rows(split)], (0, 3))]
        assert np.array_equal(some.rows(split), kept)
        both = np.concatenate([some.rows(split), other.rows(split)])
        assert np.array_equal(np.sort(both), whole.rows(split))
    limited = make_splits(labels, last, SplitSpec(0.25, 20, 1, (0, 3)))
    assert np.bincount(labels[limited.train]).tolist() == [10, 0, 0, 10]


def test_a_limit_of_the_held_out_examples_is_nested_stratified_and_leaves_training_alone() -> None:
    labels = np.tile(np.arange(4), 50)
    full, large, small = (
        make_splits(labels, part(9), SplitSpec(0.4, 60, 0, None, held)) for held in (None, 40, 12)
    )
    assert set(small.validation) < set(large.validation) < set(full.validation)
    assert np.bincount(labels[small.validation]).tolist() == [3, 3, 3, 3]
    assert np.array_equal(small.train, full.train)
    assert small.sizes() == {"train": 60, "validation": 12, "test": 9}
    tasks = make_splits(labels, part(9), SplitSpec(0.4, 20, 0, (0, 1), 10))
    assert np.bincount(labels[tasks.validation]).tolist() == [5, 5]
    with pytest.raises(ConfigError, match="asks for 81 validation examples where there are 80"):
        make_splits(labels, part(0), SplitSpec(0.4, None, 0, None, 81))
    with pytest.raises(ConfigError, match="asks for 1 validation examples where there are 0"):
        make_splits(labels, part(0), SplitSpec(0.0, None, 0, None, 1))


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=12), st.floats(0.05, 0.9), st.integers(0, 50)
)
def test_every_class_trains_and_rows_stay_where_that_is_so(
    counts: list[int], validation: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    held = round(len(labels) * validation)
    if held >= len(labels):
        return
    order = stratified_order(labels, seed)
    splits = make_splits(labels, part(0), SplitSpec(validation, None, seed))
    kept = rows_kept_for_training(labels, validation, seed)
    assert set(labels[splits.train]) == set(labels)
    together = np.concatenate([splits.train, splits.validation])
    assert np.array_equal(np.sort(together), np.arange(len(labels)))
    # Nothing moves but one example of each class that would have had none.
    assert set(splits.validation) | set(kept) == set(order[:held])
    assert set(labels[kept]) == set(labels) - set(labels[order[held:]])
    assert len(set(labels[kept])) == len(kept)


def test_an_example_that_is_kept_is_there_under_any_limit() -> None:
    labels = np.array([0] * 50 + [1] * 50 + [2])
    seed = next(s for s in range(99) if len(rows_kept_for_training(labels, 0.3, s)))
    for limit in (3, 20, None):
        splits = make_splits(labels, part(0), SplitSpec(0.3, limit, seed))
        assert 2 in labels[splits.train]
        assert 2 not in labels[splits.validation]
