"""A folder of images, one sub-folder a class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from stillhouse.methods.core.data.base.source import (
    PARTS,
    Images,
    Labels,
    Part,
    Source,
    SourceFacts,
    root_problem,
)
from stillhouse.methods.core.data.formats.encoded_images import Decoder, Encoded, Mode, kept_mode
from stillhouse.methods.core.data.formats.image_tree import (
    RULE,
    ClassFolder,
    class_folder,
    class_folders,
    left_out,
    outside,
)
from stillhouse.spaces.config.base import fingerprint, knob
from stillhouse.spaces.config.problems import ConfigError


class ImageFolder(Source):
    """``root/train/<class>/*.png`` (or .jpg, .webp, ...), and ``root/test`` or else ``root/val``.

    Hidden folders are no classes, and hidden files no images. Above 2 GB the names and sizes of
    the files stand for their contents: reading such a set only to name it would cost more than
    the naming saves.
    """

    version: ClassVar[int] = 2
    names_only_above: ClassVar[int | None] = 2 * 1024**3

    mode: Mode | None = knob(
        None, "grey (L) or colour (RGB); none means grey if all training images are"
    )
    size: int | None = knob(None, "side in pixels of the square cut from every image", ge=1)

    def files(self) -> list[Path]:
        return [path for part in PARTS for path, _ in self._listed(part)]

    def facts(self) -> SourceFacts:
        images = [path for path, _ in self._listed("train")]
        height, width, channels = self._decoder(images).pixels(_encoded(images[0])).shape
        return SourceFacts((channels, height, width), self._classes())

    def labels(self, part: Part) -> Labels:
        return np.array([label for _, label in self._listed(part)], dtype=np.int64)

    def chunks(self, part: Part) -> Iterator[Images]:
        decoder = self._decoder([path for path, _ in self._listed("train")])
        return decoder.chunks(_encoded(path) for path, _ in self._listed(part))

    def notes(self) -> tuple[str, ...]:
        folders = [each for part in PARTS for each in self._folders(part)]
        beside = [outside(folder) for folder in (self._train(), self._test()) if folder]
        told = left_out([*beside, *folders])
        return () if told is None else (told,)

    def _decoder(self, images: list[Path]) -> Decoder:
        key = fingerprint(["mode", self.fingerprint()])
        mode = self.mode or kept_mode(key, lambda: map(_encoded, images))
        return Decoder(mode, self.size)

    def _listed(self, part: Part) -> list[tuple[Path, int]]:
        """(path, label), by class and then by name; nothing where the part's folder is missing."""
        folders = self._folders(part)
        return [(path, n) for n, folder in enumerate(folders) for path in folder.images]

    def _folders(self, part: Part) -> list[ClassFolder]:
        """One a class; a test part need not have them all."""
        folder = self._train() if part == "train" else self._test()
        if folder is None:
            return []
        classes = self._classes()
        there = class_folders(folder)
        if strange := set(there) - set(classes):
            raise root_problem(f"{folder} has a class {min(strange)!r} that is not in train/")
        found = [
            class_folder(folder / name) if name in there else ClassFolder(folder / name, ())
            for name in classes
        ]
        empty = [each for each in found if not each.images]
        if part == "train" and empty:
            raise _without_images(empty)
        return found

    def _train(self) -> Path:
        needs = "must hold train/<class>/ with images, and test/<class>/ or val/<class>/"
        folder = self.folder(f"it {needs}") / "train"
        if not class_folders(folder):
            raise root_problem(f"{folder.parent} {needs}")
        return folder

    def _test(self) -> Path | None:
        parts = (self._train().parent / name for name in ("test", "val"))
        return next((folder for folder in parts if class_folders(folder)), None)

    def _classes(self) -> tuple[str, ...]:
        return tuple(class_folders(self._train()))


def _without_images(empty: list[ClassFolder]) -> ConfigError:
    names = ", ".join(str(each.folder) for each in empty[:3])
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    return root_problem(f"there are no images in {names}{more}; {left_out(empty) or RULE}")


def _encoded(path: Path) -> Encoded:
    return Encoded(str(path), path)
