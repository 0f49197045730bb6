"""A folder of images, one sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from methods.core.data.encoded import Decoder, Encoded, Mode
from methods.core.data.source import Images, Labels, Part, Source, SourceFacts, root_problem
from spaces.config import knob


class ImageFolder(Source):
    """``root/train/<class>/*.png`` (or .jpg, .webp, ...), and ``root/test`` or else ``root/val``.

    Above 2 GB the names and sizes of the files stand for their contents: reading such a set only
    to name it would cost more than the naming saves.
    """

    names_only_above: ClassVar[int | None] = 2 * 1024**3

    mode: Mode | None = knob(None, "grey (L) or colour (RGB); none means as the first image is")
    size: int | None = knob(None, "side in pixels of the square cut from every image", ge=1)

    def files(self) -> list[Path]:
        parts: tuple[Part, ...] = ("train", "test")
        return [Path(path) for part in parts for path, _ in self._listed(part)]

    def facts(self) -> SourceFacts:
        decoder = self._decoder()
        height, width, channels = decoder.pixels(_encoded(self._listed("train")[0][0])).shape
        return SourceFacts((channels, height, width), self._classes())

    def labels(self, part: Part) -> Labels:
        return np.array([label for _, label in self._listed(part)], dtype=np.int64)

    def chunks(self, part: Part) -> Iterator[Images]:
        return self._decoder().chunks(_encoded(path) for path, _ in self._listed(part))

    def _decoder(self) -> Decoder:
        return Decoder(self.mode, self.size).settled(_encoded(self._listed("train")[0][0]))

    def _listed(self, part: Part) -> list[tuple[str, int]]:
        """(path, label), by class and then by name; nothing where the part's folder is missing."""
        folder = self._train() if part == "train" else self._test()
        if folder is None:
            return []
        index = {name: label for label, name in enumerate(self._classes())}
        if strange := set(_folders(folder)) - set(index):
            raise root_problem(f"{folder} has a class {min(strange)!r} that is not in train/")
        try:
            return list(make_dataset(folder, index, IMG_EXTENSIONS, allow_empty=part == "test"))
        except FileNotFoundError as error:
            raise root_problem(f"{folder}: {error}") from None

    def _train(self) -> Path:
        needs = "must hold train/<class>/ with images, and test/<class>/ or val/<class>/"
        folder = self.folder(f"it {needs}") / "train"
        if not _folders(folder):
            raise root_problem(f"{folder.parent} {needs}")
        return folder

    def _test(self) -> Path | None:
        parts = (self._train().parent / name for name in ("test", "val"))
        return next((folder for folder in parts if _folders(folder)), None)

    def _classes(self) -> tuple[str, ...]:
        return tuple(_folders(self._train()))


def _folders(folder: Path) -> list[str]:
    try:
        return list(find_classes(folder)[0])
    except FileNotFoundError:
        return []


def _encoded(path: str) -> Encoded:
    return Encoded(path, Path(path))
