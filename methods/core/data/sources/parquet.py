"""Any set of images in Parquet files, as data hubs publish them."""

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
    SourceFacts,
    check_names,
    root_problem,
)
from stillhouse.methods.core.data.formats.encoded_images import Decoder, Mode, kept_mode
from stillhouse.methods.core.data.formats.labels import Classes
from stillhouse.methods.core.data.formats.parquet_images import ParquetImages
from stillhouse.methods.core.data.formats.shards import matching
from stillhouse.spaces.config.base import fingerprint, knob


class Parquet(Source):
    """Files under ``root``; a row is an example with encoded bytes and a whole-number label.

    Names of classes are those of ``classes``, else those in the files' metadata, and labels count
    them from 0. Where there are no names, every label of the training files is a class, numbered
    in order.
    """

    version: ClassVar[int] = 2

    train: str = knob("train*.parquet", "the training files, a pattern relative to root")
    test: str | None = knob("test*.parquet", "the test files; none if there are none")
    image: str | None = knob(None, "column of images; none means the only one that could be it")
    label: str = knob("label", "column of labels, whole numbers")
    mode: Mode | None = knob(
        None, "grey (L) or colour (RGB); none means grey if all training images are"
    )
    size: int | None = knob(None, "side in pixels of the square cut from every image", ge=1)
    classes: tuple[str, ...] | None = knob(None, "class names; none means those in the files")

    _names = field_validator("classes")(check_names)

    def files(self) -> list[Path]:
        return self._reader().files()

    def facts(self) -> SourceFacts:
        reader = self._settled()
        height, width, channels = reader.decoder.pixels(reader.first()).shape
        return SourceFacts((channels, height, width), self._classes(reader).names)

    def labels(self, part: Part) -> Labels:
        reader = self._reader()
        found, classes = reader.labels(part).tolist(), self._classes(reader)
        try:
            return classes.numbers(found)
        except ValueError as error:
            remedy = "`classes` names all classes, `test: null` leaves these files out"
            raise root_problem(f"the {part} files under {self.root}: {error}; {remedy}") from None

    def chunks(self, part: Part) -> Iterator[Images]:
        return self._settled().chunks(part)

    def _classes(self, reader: ParquetImages) -> Classes:
        training = set(reader.labels("train").tolist())
        names = self.classes or reader.class_names()
        try:
            return Classes.of(training, names)
        except ValueError as error:
            told = "`classes` names all classes"
            raise root_problem(f"the train files under {self.root}: {error}; {told}") from None

    def _settled(self) -> ParquetImages:
        """The reader, which knows whether images are grey or in colour."""
        reader = self._reader()
        key = fingerprint(["mode", self.fingerprint(), self.train, self.image])
        mode = self.mode or kept_mode(key, lambda: reader.encoded("train"))
        return replace(reader, decoder=Decoder(mode, self.size))

    def _reader(self) -> ParquetImages:
        shards: dict[Part, tuple[Path, ...]] = {"train": self._shards(self.train)}
        if self.test is not None:
            shards["test"] = self._shards(self.test)
        return ParquetImages(shards, self.image, self.label, Decoder(self.mode, self.size))

    def _shards(self, pattern: str) -> tuple[Path, ...]:
        root = self.folder(f"it must hold the Parquet files {pattern}")
        found = matching(root, pattern)
        if not found:
            raise root_problem(
                f"{root} must hold Parquet files {pattern} (`train` and `test` are the patterns; "
                f"`test: null` where there is no test split)"
            )
        return found
