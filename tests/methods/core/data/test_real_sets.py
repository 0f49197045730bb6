"""The sets themselves, where the environment variable STILLHOUSE_TEST_DATA says they are."""

from __future__ import annotations

import os

import numpy as np
import pytest

from stillhouse.methods.core.data.base.decoded_source import channel_statistics
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import decoded_source, facts

ROOT = os.environ.get("STILLHOUSE_TEST_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        ROOT is None, reason="STILLHOUSE_TEST_DATA names no folder with cifar10/, FashionMNIST/ ..."
    ),
]


@pytest.mark.parametrize(
    ("name", "each_class"),
    [("cifar10", (5000, 1000)), ("fashion_mnist", (6000, 1000)), ("mnist", None)],
)
def test_counts_and_published_moments(name: str, each_class: tuple[int, int] | None) -> None:
    config = DataConfig.parse({"source": name, "root": ROOT, "validation": 0.1})
    known, held = facts(config), decoded_source(config)
    train, test = (np.bincount(held.labels(part)) for part in ("train", "test"))
    assert (train.sum(), test.sum()) == ({"cifar10": 50_000}.get(name, 60_000), 10_000)
    if each_class:
        assert set(train) == {each_class[0]}
        assert set(test) == {each_class[1]}
        validation = np.bincount(held.labels("train")[held.splits((0.1, None, 0)).validation])
        assert set(validation) == {each_class[0] // 10}
    images = held.image_store("train").images.numpy()
    mean, std = channel_statistics(images, np.arange(len(images)))
    assert mean == pytest.approx(known.mean, abs=1e-4)
    # CIFAR's usual figures carry rounding of their own.
    assert std == pytest.approx(known.std, abs=1e-4)
