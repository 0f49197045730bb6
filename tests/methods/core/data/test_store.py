"""Decoded images are kept on the disk: made once, shared, never served damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillhouse.methods.core.data.base.array_cache import cache_folder, cached_images
from stillhouse.methods.core.data.base.decoded_source import channel_statistics
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import cached_decoded_source
from stillhouse.spaces.config.problems import ConfigError

SHAPE = (5, 2, 3, 1)
IMAGES = np.arange(30, dtype=np.uint8).reshape(SHAPE)


def halves() -> Iterator[np.ndarray]:
    yield IMAGES[:3]
    yield IMAGES[3:]


def never() -> Iterator[np.ndarray]:
    raise AssertionError("made again")


def test_images_are_made_once_and_mapped_thereafter() -> None:
    first = cached_images("key", SHAPE, halves)
    again = cached_images("key", SHAPE, never)
    assert isinstance(first, np.memmap)
    np.testing.assert_array_equal(first, IMAGES)
    np.testing.assert_array_equal(again, IMAGES)
    assert [path.name for path in cache_folder().iterdir()] == ["key.npy"]


def test_writing_to_a_mapping_does_not_reach_the_file() -> None:
    cached_images("key", SHAPE, halves)[:] = 0
    np.testing.assert_array_equal(cached_images("key", SHAPE, never), IMAGES)


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_damaged_file_is_made_again(content: bytes | None) -> None:
    cached_images("key", SHAPE, halves)
    path = cache_folder() / "key.npy"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    np.testing.assert_array_equal(cached_images("key", SHAPE, halves), IMAGES)


def test_an_interrupted_writer_leaves_nothing() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield IMAGES[:3]
        raise ConfigError("no more")

    with pytest.raises(ConfigError, match="no more"):
        cached_images("key", SHAPE, broken)
    assert list(cache_folder().iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="STILLHOUSE_CACHE names another folder") as caught:
        cached_images("key", SHAPE, halves)
    assert str(tmp_path / "file") in str(caught.value)


def test_processes_may_race(write: Callable[..., Any]) -> None:
    written = write("parquet-struct")
    program = (
        "import sys, json, torch\n"
        "from stillhouse.methods.core.data.config import DataConfig\n"
        "from stillhouse.methods.core.data.dataset import open_data\n"
        "torch.set_num_threads(1)\n"
        "dataset = open_data(DataConfig.parse(json.loads(sys.argv[1])))\n"
        "batch = next(dataset.batches('test', batch_size=99, device='cpu'))\n"
        "print(int((batch.images * 255).round().sum()))\n"
    )
    settings = DataConfig.parse(written.settings()).model_dump_json()
    command = [sys.executable, "-c", program, settings]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        for _ in range(2)
    ]
    found = {int(process.communicate(timeout=120)[0]) for process in running}
    assert found == {int(written.test[0].sum())}
    # Two parts, and whether all training images are grey.
    assert len(list(cache_folder().iterdir())) == 3


def test_sets_that_come_with_a_library_leave_no_files() -> None:
    open_data(DataConfig.parse({"source": "digits", "resize": 5}))
    assert not cache_folder().exists()


def test_settings_of_splits_and_augmentation_share_one_copy(write: Callable[..., Any]) -> None:
    settings = write("cifar10-parquet").settings()
    one = open_data(DataConfig.parse(settings))
    other = open_data(DataConfig.parse({**settings, "validation": 0.5, "augment": {"flip": True}}))
    assert one._source is other._source
    assert one._source.image_store("train") is other._source.image_store("train")


def test_changed_files_are_read_again(write: Callable[..., Any]) -> None:
    written = write("mnist-idx")
    config = DataConfig.parse(written.settings())
    open_data(config)
    path = written.root / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:16] + bytes(written.test[0].size))
    (batch,) = open_data(config).batches("test", batch_size=99, device="cpu")
    assert batch.images.sum() == 0


def test_another_version_of_a_source_is_decoded_anew(
    write: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig.parse(write("mnist-idx").settings())
    open_data(config)
    before = len(list(cache_folder().iterdir()))
    cached_decoded_source.cache_clear()
    monkeypatch.setattr(type(config.named_source()[1]), "version", 2)
    open_data(config)
    assert len(list(cache_folder().iterdir())) == 2 * before


def test_moments_are_exact() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 2), dtype=np.uint8)
    images[..., 1] = 51
    rows = np.arange(0, 50, 3)
    mean, std = channel_statistics(images, rows)
    some = images[rows] / 255
    assert mean == pytest.approx((some[..., 0].mean(), 0.2))
    # A channel that never changes is divided by 1.
    assert std == pytest.approx((some[..., 0].std(), 1.0))
