"""Published data sets, in torchvision's files or in Parquet files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from stillhouse.methods.core.data.base.source import (
    Images,
    Labels,
    Part,
    Reader,
    Source,
    SourceInfo,
    root_error,
)
from stillhouse.methods.core.data.formats.encoded_images import Decoder, Mode
from stillhouse.methods.core.data.formats.parquet_images import ParquetImages
from stillhouse.methods.core.data.formats.shards import matching_files
from stillhouse.methods.core.data.formats.torchvision_files import TorchvisionFiles
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Shape


class PublishedSource(Source):
    """A set with a known shape, known classes and a published normalisation.

    Its files are under ``root``: those of torchvision's class ``dataset``, or Parquet files in
    ``root/<parquet_folder>`` or in ``root``.
    """

    form: ClassVar[type[TorchvisionFiles]]
    dataset: ClassVar[Any]
    parquet_folder: ClassVar[str]
    label_column: ClassVar[str] = "label"
    shape: ClassVar[Shape]
    class_names: ClassVar[tuple[str, ...]]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]

    def files(self) -> list[Path]:
        return self._reader().files()

    def info(self) -> SourceInfo:
        return SourceInfo(self.shape, self.class_names, self.mean, self.std)

    def labels(self, part: Part) -> Labels:
        return self._reader().labels(part)

    def image_chunks(self, part: Part) -> Iterator[Images]:
        return self._reader().image_chunks(part)

    def _reader(self) -> Reader:
        """The reader for the files under ``root``; with ``download`` it fetches missing ones."""
        root = self.root_folder(self._requirement("it"))
        torchvision_files = self.form(self.dataset, root)
        if all(os.path.exists(path) for path in torchvision_files.files()):
            return torchvision_files
        for folder in (root / self.parquet_folder, root):
            train, test = (_find_shards(folder, part) for part in ("train", "test"))
            if train and test:
                return self._parquet_reader(train, test)
        if not self.download:
            raise root_error(f"{self._requirement(root)}; `download: true` fetches the former")
        try:
            torchvision_files.download()
        except ConfigError as error:
            reason = error.problems[0].message
            raise root_error(f"{self._requirement(root)}; {reason}") from None
        return torchvision_files

    def _parquet_reader(self, train: tuple[Path, ...], test: tuple[Path, ...]) -> ParquetImages:
        mode: Mode = "L" if self.shape[0] == 1 else "RGB"
        shards: dict[Part, tuple[Path, ...]] = {"train": train, "test": test}
        return ParquetImages(shards, label=self.label_column, decoder=Decoder(mode))

    def _requirement(self, root: Path | str) -> str:
        """The message that names the required files, in both formats."""
        official = self.form(self.dataset, Path(root))
        return (
            f"{root} must hold {official.folder.as_posix()}/{{{', '.join(official.names)}}}, or "
            f"Parquet files train-*.parquet and test-*.parquet, there or in {self.parquet_folder}/"
        )


def _find_shards(folder: Path, part: str) -> tuple[Path, ...]:
    """The numbered files, or the single file."""
    return matching_files(folder, f"{part}-*.parquet") or matching_files(folder, f"{part}.parquet")
