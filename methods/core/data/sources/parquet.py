"""A set of images in Parquet files, in the format of data hubs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pydantic import field_validator

from stillhouse.methods.core.data.base.source import (
    Images,
    Labels,
    Part,
    Source,
    SourceInfo,
    check_class_names,
    root_error,
)
from stillhouse.methods.core.data.formats.encoded_images import Decoder, Mode, cached_mode
from stillhouse.methods.core.data.formats.labels import ClassIndex
from stillhouse.methods.core.data.formats.parquet_images import ParquetImages
from stillhouse.methods.core.data.formats.shards import matching_files
from stillhouse.spaces.config.base import fingerprint, setting


class Parquet(Source):
    """Files under ``root``; a row is an example with encoded bytes and a whole-number label.

    Class names come from ``classes`` or from the files' metadata; labels are their numbers from 0.
    Without names every label of the training files is a class, in numeric order.
    """

    version: ClassVar[int] = 2

    train: str = setting("train*.parquet", "the training files, a pattern relative to root")
    test: str | None = setting("test*.parquet", "the test files; none if there are none")
    image: str | None = setting(None, "column of images; none means the only one of that type")
    label: str = setting("label", "column of labels, whole numbers")
    mode: Mode | None = setting(
        None, "grey (L) or colour (RGB); none means grey if all training images are"
    )
    size: int | None = setting(None, "side in pixels of the square cut from every image", ge=1)
    classes: tuple[str, ...] | None = setting(None, "class names; none means those in the files")

    _names = field_validator("classes")(check_class_names)

    def files(self) -> list[Path]:
        return self._reader().files()

    def info(self) -> SourceInfo:
        reader = self._reader_with_mode()
        height, width, channels = reader.decoder.decode(reader.first_image()).shape
        return SourceInfo((channels, height, width), self._class_index(reader).names)

    def labels(self, part: Part) -> Labels:
        reader = self._reader()
        raw_labels, classes = reader.labels(part).tolist(), self._class_index(reader)
        try:
            return classes.to_indices(raw_labels)
        except ValueError as error:
            remedy = "`classes` names all classes, `test: null` leaves these files out"
            raise root_error(f"the {part} files under {self.root}: {error}; {remedy}") from None

    def image_chunks(self, part: Part) -> Iterator[Images]:
        return self._reader_with_mode().image_chunks(part)

    def _class_index(self, reader: ParquetImages) -> ClassIndex:
        training = set(reader.labels("train").tolist())
        names = self.classes or reader.class_names()
        try:
            return ClassIndex.from_labels(training, names)
        except ValueError as error:
            remedy = "`classes` names all classes"
            raise root_error(f"the train files under {self.root}: {error}; {remedy}") from None

    def _reader_with_mode(self) -> ParquetImages:
        """The reader with a decoder for grey or colour images."""
        reader = self._reader()
        key = fingerprint(["mode", self.fingerprint(), self.train, self.image])
        mode = self.mode or cached_mode(key, lambda: reader.iter_encoded("train"))
        return replace(reader, decoder=Decoder(mode, self.size))

    def _reader(self) -> ParquetImages:
        shards: dict[Part, tuple[Path, ...]] = {"train": self._find_shards(self.train)}
        if self.test is not None:
            shards["test"] = self._find_shards(self.test)
        return ParquetImages(shards, self.image, self.label, Decoder(self.mode, self.size))

    def _find_shards(self, pattern: str) -> tuple[Path, ...]:
        root = self.root_folder(f"it must hold the Parquet files {pattern}")
        paths = matching_files(root, pattern)
        if not paths:
            raise root_error(
                f"{root} must hold Parquet files {pattern} (`train` and `test` are the patterns; "
                f"`test: null` where there is no test split)"
            )
        return paths
