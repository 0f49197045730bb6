"""Small data sets in every form in which sources read them, written as real files."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets

from stillhouse.methods.core.data.sources.digits import Digits

TRAIN, TEST = 48, 24


@dataclass(frozen=True)
class Written:
    """A small set: what an experiment would say of it, and what its files hold."""

    name: str
    source: str | dict[str, Any]
    root: Path
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"source": self.source, "root": str(self.root), **more}


def drawn(count: int, shape: tuple[int, int, int], classes: int, seed: int) -> Any:
    """Random images [N, C, H, W] and labels in which every class occurs."""
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, chance.permutation(np.arange(count) % classes).astype(np.int64)


def picture(pixels: np.ndarray) -> Image.Image:
    """[C, H, W] as PIL sees it."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(pixels).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """The format of http://yann.lecun.com/exdb/mnist: magic number, sizes, bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "train" if part == "train" else "t10k"
    sizes = np.array([0x803, len(images), 28, 28], ">u4").tobytes()
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(sizes + images.tobytes())
    sizes = np.array([0x801, len(labels)], ">u4").tobytes()
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(sizes + labels.astype(np.uint8).tobytes())


def write_parquet(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    columns: tuple[str, ...] = ("img", "label"),
    kind: str = "PNG",
    struct: bool = True,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells: list[Any] = [encoded(pixels, kind) for pixels in images]
    if struct:
        cells = [{"bytes": cell, "path": None} for cell in cells]
    table = {columns[0]: cells, **{name: labels.tolist() for name in columns[1:]}}
    pq.write_table(pa.table(table), path, row_group_size=10)


def write_pickles(folder: Path, dataset: Any, patch: pytest.MonkeyPatch, parts: Any) -> None:
    """Batches as CIFAR's authors pickle them; torchvision then expects these files' digests."""
    folder.mkdir(parents=True)
    labels = "labels" if dataset is datasets.CIFAR10 else "fine_labels"
    for listing, part in (("train_list", "train"), ("test_list", "test")):
        names = [name for name, _ in getattr(dataset, listing)]
        shares = zip(*(np.array_split(array, len(names)) for array in parts[part]), strict=True)
        digests = []
        for name, (images, classes) in zip(names, shares, strict=True):
            entry = {"data": images.reshape(len(images), -1), labels: classes.tolist()}
            (folder / name).write_bytes(pickle.dumps(entry))
            digests.append((name, hashlib.md5((folder / name).read_bytes()).hexdigest()))
        patch.setattr(dataset, listing, digests)
    meta = folder / dataset.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: ["a", "b"]}))
    digest = hashlib.md5(meta.read_bytes()).hexdigest()
    patch.setattr(dataset, "meta", {**dataset.meta, "md5": digest})


def write_folder(root: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = root / part / "abc"[label] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(pixels).save(path)


def _idx(name: str, folder: str, root: Path) -> Written:
    train, test = drawn(TRAIN, (1, 28, 28), 10, 1), drawn(TEST, (1, 28, 28), 10, 2)
    write_idx(root / folder / "raw", "train", *train)
    write_idx(root / folder / "raw", "test", *test)
    return Written(name, name, root, train, test)


def _hub(name: str, shape: Any, columns: Any, classes: int, root: Path) -> Written:
    """Two training shards below ``root/name``, one test shard."""
    train, test = drawn(TRAIN, shape, min(classes, 12), 3), drawn(TEST, shape, 10, 4)
    half = TRAIN // 2
    for number, rows in enumerate((slice(0, half), slice(half, TRAIN))):
        path = root / name / f"train-0000{number}-of-00002.parquet"
        write_parquet(path, train[0][rows], train[1][rows], columns)
    write_parquet(root / name / "test-00000-of-00001.parquet", *test, columns, "WEBP")
    return Written(name, name, root, train, test)


def _pickled(name: str, dataset: Any, root: Path, patch: pytest.MonkeyPatch) -> Written:
    train, test = drawn(TRAIN, (3, 32, 32), 10, 5), drawn(TEST, (3, 32, 32), 10, 6)
    write_pickles(root / dataset.base_folder, dataset, patch, {"train": train, "test": test})
    return Written(name, name, root, train, test)


def _parquet(struct: bool, channels: int, root: Path) -> Written:
    train, test = drawn(TRAIN, (channels, 9, 12), 4, 7), drawn(TEST, (channels, 9, 12), 4, 8)
    write_parquet(root / "some" / "train.parquet", *train, ("picture", "y"), struct=struct)
    write_parquet(root / "some" / "held-out.parquet", *test, ("picture", "y"), struct=struct)
    settings = {"train": "some/train*.parquet", "test": "some/held-out.parquet", "label": "y"}
    return Written("parquet", {"parquet": settings}, root, train, test)


def _folder(part: str, root: Path) -> Written:
    train, test = drawn(TRAIN, (3, 10, 14), 3, 9), drawn(TEST, (3, 10, 14), 3, 10)
    write_folder(root, "train", *train)
    write_folder(root, part, *test)
    # A folder is read class by class.
    orders = [np.argsort(labels, kind="stable") for _, labels in (train, test)]
    train, test = (
        tuple(array[order] for array in part)
        for part, order in zip((train, test), orders, strict=True)
    )
    return Written("image_folder", "image_folder", root, train, test)


def _digits(root: Path) -> Written:
    """Scikit-learn's arrays, in the order of the source's parts."""
    source = Digits.parse({})
    return Written("digits", "digits", root, source.read_all("train"), source.read_all("test"))


def _form(make: Callable[..., Written], *settings: Any) -> Callable[..., Written]:
    return lambda root, _: make(*settings, root)


def _expected(name: str, dataset: Any) -> Callable[..., Written]:
    return lambda root, patch: _pickled(name, dataset, root, patch)


FORMS: dict[str, Callable[[Path, pytest.MonkeyPatch], Written]] = {
    "digits": _form(_digits),
    "mnist-idx": _form(_idx, "mnist", "MNIST"),
    "mnist-parquet": _form(_hub, "mnist", (1, 28, 28), ("image", "label"), 10),
    "fashion_mnist-idx": _form(_idx, "fashion_mnist", "FashionMNIST"),
    "fashion_mnist-parquet": _form(_hub, "fashion_mnist", (1, 28, 28), ("image", "label"), 10),
    "cifar10-pickled": _expected("cifar10", datasets.CIFAR10),
    "cifar10-parquet": _form(_hub, "cifar10", (3, 32, 32), ("img", "label"), 10),
    "cifar100-pickled": _expected("cifar100", datasets.CIFAR100),
    "cifar100-parquet": _form(
        _hub, "cifar100", (3, 32, 32), ("img", "fine_label", "coarse_label"), 100
    ),
    "parquet-struct": _form(_parquet, True, 3),
    "parquet-bytes-grey": _form(_parquet, False, 1),
    "image_folder": _form(_folder, "test"),
    "image_folder-val": _form(_folder, "val"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Written]:
    """Write one of ``FORMS`` into a folder of its own."""
    return lambda form, folder="set": FORMS[form](tmp_path / folder, monkeypatch)


@pytest.fixture(params=FORMS)
def written(request: pytest.FixtureRequest, write: Callable[..., Written]) -> Written:
    """Each form in turn."""
    return write(request.param)


@pytest.fixture
def forms() -> tuple[str, ...]:
    return tuple(FORMS)
