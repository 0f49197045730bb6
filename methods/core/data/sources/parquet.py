"""Any set of images in Parquet files, as data hubs publish them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from methods.core.data.encoded import Decoder, Mode
from methods.core.data.parquet_images import ParquetImages
from methods.core.data.source import Images, Labels, Part, Source, SourceFacts, root_problem
from spaces.config import knob


class Parquet(Source):
    """Files under ``root``; a row is an example with encoded bytes and a whole-number label."""

    train: str = knob("train*.parquet", "the training files, a pattern relative to root")
    test: str | None = knob("test*.parquet", "the test files; none if there are none")
    image: str | None = knob(None, "column of images; none means the only one that could be it")
    label: str = knob("label", "column of labels, numbered from 0")
    mode: Mode | None = knob(None, "grey (L) or colour (RGB); none means as the first image is")
    size: int | None = knob(None, "side in pixels of the square cut from every image", ge=1)
    classes: tuple[str, ...] | None = knob(None, "class names; none means those in the files")

    def files(self) -> list[Path]:
        return self._reader().files()

    def facts(self) -> SourceFacts:
        reader = self._reader()
        first = reader.first()
        height, width, channels = reader.decoder.settled(first).pixels(first).shape
        names = self.classes or reader.class_names()
        if names is None:
            names = tuple(str(label) for label in range(int(reader.labels("train").max()) + 1))
        return SourceFacts((channels, height, width), names)

    def labels(self, part: Part) -> Labels:
        return self._reader().labels(part)

    def chunks(self, part: Part) -> Iterator[Images]:
        return self._reader().chunks(part)

    def _reader(self) -> ParquetImages:
        shards: dict[Part, tuple[Path, ...]] = {"train": self._shards(self.train)}
        if self.test is not None:
            shards["test"] = self._shards(self.test)
        return ParquetImages(shards, self.image, self.label, Decoder(self.mode, self.size))

    def _shards(self, pattern: str) -> tuple[Path, ...]:
        root = self.folder(f"it must hold the Parquet files {pattern}")
        found = tuple(sorted(root.glob(pattern)))
        if not found:
            raise root_problem(
                f"{root} must hold Parquet files {pattern} (`train` and `test` are the patterns; "
                f"`test: null` where there is no test split)"
            )
        return found
