"""Batches: which examples, in which order, under which view, from memory or streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.augmentation.augment import render
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset, open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.spaces.config.problems import ConfigError

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ALL = {"flip": True, "crop": 2, "cutout": 3}


def digits(**settings: Any) -> Dataset:
    return open_data(DataConfig.parse({"source": "digits", **settings}))


def epoch(dataset: Dataset, number: int = 0, size: int = 100, **more: Any) -> list[Batch]:
    settings = {"batch_size": size, "epoch": number, "seed": 0, "device": "cpu", **more}
    return list(dataset.train_batches(**settings))


def joined(batches: list[Batch]) -> Batch:
    return Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def in_order(batches: list[Batch]) -> Batch:
    """All examples, sorted by their place in the split."""
    whole = joined(batches)
    order = whole.indices.argsort()
    return Batch(*(part[order] for part in whole))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


# What a batch is.


def test_batches_are_what_the_source_holds(written: Any) -> None:
    dataset = open_data(DataConfig.parse(written.settings(validation=0.25)))
    validation = joined(list(dataset.batches("validation", batch_size=5, device="cpu")))
    train = in_order(epoch(dataset, size=10))
    test = joined(list(dataset.batches("test", batch_size=1000, device="cpu")))
    np.testing.assert_array_equal((test.images * 255).round(), written.test[0])
    np.testing.assert_array_equal(test.labels, written.test[1])
    assert len(train.labels) + len(validation.labels) == len(written.train[1])

    # Each training image of the source is in one of the two splits, with its own label.
    def marked(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
        images = np.rint(images * (1 if images.dtype == np.uint8 else 255)).astype(np.uint8)
        return [(i.tobytes(), int(k)) for i, k in zip(images, labels, strict=True)]

    found = [
        *marked(train.images.contiguous().numpy(), train.labels.numpy()),
        *marked(validation.images.contiguous().numpy(), validation.labels.numpy()),
    ]
    assert sorted(found) == sorted(marked(*written.train))


def test_types_shapes_and_layout() -> None:
    dataset = digits(augment=ALL)
    for batch in (*epoch(dataset), *dataset.batches("test", batch_size=64, device="cpu")):
        assert batch.images.dtype == torch.float32
        assert batch.images.shape[1:] == dataset.shape == (1, 8, 8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= batch.images.min() <= batch.images.max() <= 1
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert len(batch.images) == len(batch.labels) == len(batch.indices)


def test_facts_say_what_comes() -> None:
    dataset = digits(validation=0.2, limit=500)
    assert dataset.facts == facts(dataset.config)
    sizes = {"train": 500, "validation": 288, "test": 359}
    assert dataset.facts.sizes == sizes
    assert (dataset.classes, len(dataset.facts.class_names)) == (10, 10)
    for split, size in sizes.items():
        batches = dataset.batches(split, batch_size=100, device="cpu")
        assert sum(len(batch.labels) for batch in batches) == size
    assert dataset.facts.plain()["shape"] == [1, 8, 8]


def test_unpublished_mean_and_std_are_those_of_the_training_split() -> None:
    dataset = digits(limit=300)
    images = in_order(epoch(dataset)).images.double()
    assert dataset.mean == pytest.approx(images.mean((0, 2, 3)).tolist(), abs=1e-7)
    assert dataset.std == pytest.approx(images.std((0, 2, 3), correction=0).tolist(), abs=1e-7)


def test_normalisation_may_be_given() -> None:
    dataset = digits(normalise={"mean": [0.5], "std": [0.25]})
    assert (dataset.mean, dataset.std) == ((0.5,), (0.25,))


def test_the_split_digest_tells_splits_apart() -> None:
    assert digits().facts.split_digest == digits(augment=ALL).facts.split_digest
    assert digits().facts.split_digest != digits(split_seed=1).facts.split_digest
    assert digits().facts.split_digest != digits(limit=100).facts.split_digest


def test_an_empty_split_cannot_be_measured_on(write: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="validation: is 0"):
        next(digits(validation=0.0).batches("validation", batch_size=8, device="cpu"))
    written = write("parquet-struct")
    written.source["parquet"]["test"] = None
    dataset = open_data(DataConfig.parse(written.settings()))
    with pytest.raises(ConfigError, match="source: has no test split"):
        next(dataset.batches("test", batch_size=8, device="cpu"))


def test_scaled_images_have_the_size_asked_for(written: Any) -> None:
    dataset = open_data(DataConfig.parse(written.settings(resize=6)))
    images = joined(list(dataset.batches("test", batch_size=10, device="cpu"))).images
    assert images.shape[2:] == (6, 6)
    original = written.test[0] / 255
    # An antialiased reduction keeps the mean, up to rounding.
    assert images.mean((0, 2, 3)).numpy() == pytest.approx(original.mean((0, 2, 3)), abs=0.02)


# Order.


def test_an_epoch_is_a_permutation() -> None:
    dataset = digits()
    indices = joined(epoch(dataset)).indices
    assert sorted(indices.tolist()) == list(range(dataset.facts.sizes["train"]))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    dataset = digits()

    def order(number: int, seed: int, size: int = 100) -> list[int]:
        return joined(epoch(dataset, number, size, seed=seed)).indices.tolist()

    assert order(1, 0) == order(1, 0) == order(1, 0, size=77)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)
    assert order(0, 2**63) != order(0, 2**63 + 1)


def test_an_epoch_begun_anew_gives_the_same_batches() -> None:
    """Whoever resumes at epoch k sees what the uninterrupted run saw."""
    dataset = digits(augment=ALL)
    run = [epoch(dataset, number) for number in range(4)]
    assert same(epoch(digits(augment=ALL), 3), run[3])
    assert not same(run[2], run[3])


@pytest.mark.parametrize(
    ("size", "drop_last", "expected"),
    [
        (100, False, [100, 100, 56]),
        (100, True, [100, 100]),
        (128, True, [128, 128]),
        (1000, False, [256]),
        (1000, True, [256]),
        (85, False, [85, 85, 85]),  # the 256th example would be a batch of its own
        (1, False, [1] * 256),
    ],
)
def test_the_last_batch(size: int, drop_last: bool, expected: list[int]) -> None:
    dataset = digits(limit=256)
    found = [len(batch.labels) for batch in epoch(dataset, size=size, drop_last=drop_last)]
    assert found == expected
    assert dataset.steps(size, drop_last) == len(expected)


# Views.


@pytest.mark.parametrize("size", [1, 33, 5000])
def test_a_view_does_not_depend_on_order_or_batch_size(size: int) -> None:
    dataset = digits(augment={**ALL, "views": 3}, limit=200)
    expected = joined(list(dataset.view_batches(1, batch_size=64, device="cpu")))
    for number in (1, 4):
        found = in_order(epoch(dataset, number, size))
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)


def test_views_come_back_or_never() -> None:
    none, three, endless = digits(), digits(augment={**ALL, "views": 3}), digits(augment=ALL)
    assert [dataset.num_views for dataset in (none, three, endless)] == [1, 3, None]
    assert [dataset.has_repeating_views for dataset in (none, three, endless)] == [
        True,
        True,
        False,
    ]
    assert [none.view_of_epoch(k) for k in range(4)] == [0, 0, 0, 0]
    assert [three.view_of_epoch(k) for k in range(4)] == [0, 1, 2, 0]
    assert [endless.view_of_epoch(k) for k in range(4)] == [0, 1, 2, 3]


def test_every_view_is_another() -> None:
    dataset = digits(augment=ALL, limit=100)
    views = [joined(list(dataset.view_batches(k, batch_size=50, device="cpu"))) for k in range(3)]
    assert not torch.equal(views[0].images, views[1].images)
    assert not torch.equal(views[1].images, views[2].images)


def test_a_view_is_the_split_rendered_with_its_choices() -> None:
    plain, varied = digits(limit=100), digits(augment=ALL, limit=100)
    original = in_order(epoch(plain)).images
    images = (original * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    choices = varied.config.augment.draw_view(2, 100, 8, 8)
    mean, std = torch.tensor(varied.mean), torch.tensor(varied.std)
    expected = render(images, choices, varied.config.augment, mean, std)
    found = joined(list(varied.view_batches(2, batch_size=100, device="cpu"))).images
    assert torch.equal(found, expected)


@pytest.mark.parametrize("resident_mb", [0, 4096])
def test_noise_is_each_examples_own_in_every_batch(resident_mb: int) -> None:
    dataset = digits(augment={"noise": True}, limit=100, resident_mb=resident_mb)
    assert dataset.num_views is None
    batches = [
        in_order(found).images
        for found in (
            epoch(dataset, 3, size=50),
            epoch(dataset, 3, size=7),
            epoch(dataset, 3, size=30, seed=1),
            list(dataset.view_batches(3, batch_size=64, device="cpu")),
            epoch(digits(augment={"noise": True}, limit=100), 3),
        )
    ]
    assert all(torch.equal(batches[0], other) for other in batches[1:])
    assert not torch.equal(batches[0], in_order(epoch(dataset, 4)).images)


@pytest.mark.parametrize("augment", [ALL, {"noise": True}])
def test_measuring_is_never_augmented(augment: dict[str, Any]) -> None:
    for split in ("train", "validation", "test"):
        plain, varied = (
            list(d.batches(split, batch_size=99, device="cpu"))
            for d in (digits(), digits(augment=augment))
        )
        assert same(plain, varied)


# Resident and streamed.


def both(written: Any, **settings: Any) -> Iterator[Dataset]:
    for budget in (4096, 0):
        yield open_data(DataConfig.parse(written.settings(resident_mb=budget, **settings)))


def test_streamed_batches_are_the_resident_ones_bit_for_bit(written: Any) -> None:
    resident, streamed = both(written, augment=ALL)
    assert same(epoch(resident, 3, 7), epoch(streamed, 3, 7))
    for split in ("train", "validation", "test"):
        one, other = (
            list(d.batches(split, batch_size=5, device="cpu")) for d in (resident, streamed)
        )
        assert same(one, other)


def test_a_stream_may_be_left_early(write: Callable[..., Any]) -> None:
    _, streamed = both(write("cifar10-parquet"))
    batches = streamed.train_batches(batch_size=2, epoch=0, seed=0, device="cpu")
    assert len(list(islice(batches, 3))) == 3
    batches.close()
    assert len(epoch(streamed, size=2)) == streamed.steps(2)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("form", ["cifar10-parquet", "digits"])
def test_the_device_gives_the_same_batches(write: Callable[..., Any], form: str) -> None:
    resident, streamed = both(write(form), augment=ALL)
    host = epoch(resident, 1, 7)
    on_device, from_stream = (epoch(d, 1, 7, device="cuda") for d in (resident, streamed))
    assert same(on_device, from_stream)
    for batch, expected in zip(on_device, host, strict=True):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(batch.images.cpu(), expected.images)
        assert torch.equal(batch.indices.cpu(), expected.indices)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("budget", [4096, 0])
def test_the_host_does_not_wait_within_an_epoch(write: Callable[..., Any], budget: int) -> None:
    settings = write("cifar10-parquet").settings(resident_mb=budget, augment=ALL)
    dataset = open_data(DataConfig.parse(settings))
    batches = dataset.train_batches(batch_size=4, epoch=0, seed=0, device="cuda")
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == dataset.steps(4) - 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
