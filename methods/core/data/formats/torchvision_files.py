"""Torchvision's files of published sets: idx (MNIST) and pickled batches (CIFAR)."""

from __future__ import annotations

import http.client
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from stillhouse.methods.core.data.base.file_kinds import read_obstacle
from stillhouse.methods.core.data.base.source import (
    Images,
    Labels,
    Part,
    damaged_file_error,
    root_error,
)


@dataclass(frozen=True)
class TorchvisionFiles:
    """The files of the torchvision class ``dataset`` under ``root``."""

    dataset: Any
    root: Path

    @property
    def folder(self) -> Path:
        """The folder that holds the files, relative to ``root``."""
        raise NotImplementedError

    @property
    def names(self) -> list[str]:
        """The files' names."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """All files, present or not."""
        return [self.root / self.folder / name for name in self.names]

    def labels(self, part: Part) -> Labels:
        """[N]."""
        raise NotImplementedError

    def image_chunks(self, part: Part) -> Iterator[Images]:
        """The images, in chunks [n, C, H, W]."""
        raise NotImplementedError

    def download(self) -> None:
        """Download into ``root``.

        Each file is moved there in one step, so other processes never see half a file.

        Raises:
            ConfigError: the download failed.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=".fetching-", dir=self.root
            ) as temporary_folder:
                self.dataset(temporary_folder, download=True)
                (self.root / self.folder).mkdir(parents=True, exist_ok=True)
                for path in self.files():
                    os.replace(temporary_folder / self.folder / path.name, path)
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())
            raise root_error(f"the download failed ({reason})") from None


class IdxFiles(TorchvisionFiles):
    """MNIST's format: one file of images and one of labels for each part."""

    @property
    def folder(self) -> Path:
        return Path(self.dataset.__name__, "raw")

    @property
    def names(self) -> list[str]:
        return [Path(packed).stem for packed, _ in self.dataset.resources]

    def labels(self, part: Part) -> Labels:
        return self._read(read_label_file, part, "labels-idx1-ubyte").numpy()

    def image_chunks(self, part: Part) -> Iterator[Images]:
        yield self._read(read_image_file, part, "images-idx3-ubyte").numpy()[:, None]

    def _read(self, reader: Callable[[str], Tensor], part: Part, kind: str) -> Tensor:
        name = f"{'train' if part == 'train' else 't10k'}-{kind}"
        path = self.root / self.folder / name
        try:
            return reader(str(path))
        except (AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise damaged_file_error(
                path, str(error) or "not in the idx format", "binary"
            ) from None


class PickledFiles(TorchvisionFiles):
    """CIFAR's format: pickled batches, unpickled only if their digests are the published ones."""

    @property
    def folder(self) -> Path:
        return Path(self.dataset.base_folder)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self._files_with_md5()]

    def labels(self, part: Part) -> Labels:
        return np.asarray(self._read(part).targets, dtype=np.int64)

    def image_chunks(self, part: Part) -> Iterator[Images]:
        yield self._read(part).data.transpose(0, 3, 1, 2)

    def _files_with_md5(self) -> list[tuple[str, str]]:
        meta = (self.dataset.meta["filename"], self.dataset.meta["md5"])
        return [*self.dataset.train_list, *self.dataset.test_list, meta]

    def _read(self, part: Part) -> Any:
        try:
            return self.dataset(str(self.root), train=part == "train")
        except (OSError, RuntimeError):
            raise damaged_file_error(
                self._first_damaged_file(), "its MD5 is not the published one", "binary"
            ) from None

    def _first_damaged_file(self) -> Path:
        """The first file that differs from the published one."""
        folder = self.root / self.folder
        paths = ((folder / name, md5) for name, md5 in self._files_with_md5())
        damaged_paths = (
            p for p, md5 in paths if read_obstacle(p) or not check_integrity(str(p), md5)
        )
        return next(damaged_paths)
