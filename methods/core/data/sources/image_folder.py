"""A folder of images with one sub-folder per class."""

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
    SourceInfo,
    root_error,
)
from stillhouse.methods.core.data.formats.encoded_images import (
    Decoder,
    EncodedImage,
    Mode,
    cached_mode,
)
from stillhouse.methods.core.data.formats.image_tree import (
    FILE_RULE,
    ClassFolder,
    class_folder,
    class_folders,
    files_outside_classes,
    left_out_note,
)
from stillhouse.spaces.config.base import fingerprint, setting
from stillhouse.spaces.config.problems import ConfigError


class ImageFolder(Source):
    """``root/train/<class>/*.png`` (or .jpg, .webp, ...), and ``root/test`` or else ``root/val``.

    Hidden folders and files are ignored. Above 2 GB the fingerprint uses the names and sizes of the
    files, because reading all contents would take too long.
    """

    version: ClassVar[int] = 2
    names_only_above: ClassVar[int | None] = 2 * 1024**3

    mode: Mode | None = setting(
        None, "grey (L) or colour (RGB); none means grey if all training images are"
    )
    size: int | None = setting(None, "side in pixels of the square cut from every image", ge=1)

    def files(self) -> list[Path]:
        return [path for part in PARTS for path, _ in self._labelled_paths(part)]

    def info(self) -> SourceInfo:
        images = [path for path, _ in self._labelled_paths("train")]
        height, width, channels = self._decoder(images).decode(_to_encoded(images[0])).shape
        return SourceInfo((channels, height, width), self._class_names())

    def labels(self, part: Part) -> Labels:
        return np.array([label for _, label in self._labelled_paths(part)], dtype=np.int64)

    def image_chunks(self, part: Part) -> Iterator[Images]:
        decoder = self._decoder([path for path, _ in self._labelled_paths("train")])
        return decoder.decode_chunks(_to_encoded(path) for path, _ in self._labelled_paths(part))

    def notes(self) -> tuple[str, ...]:
        folders = [
            folder_of_class for part in PARTS for folder_of_class in self._class_folders(part)
        ]
        unclassified = [
            files_outside_classes(folder)
            for folder in (self._train_folder(), self._test_folder())
            if folder
        ]
        note = left_out_note([*unclassified, *folders])
        return () if note is None else (note,)

    def _decoder(self, images: list[Path]) -> Decoder:
        key = fingerprint(["mode", self.fingerprint()])
        mode = self.mode or cached_mode(key, lambda: map(_to_encoded, images))
        return Decoder(mode, self.size)

    def _labelled_paths(self, part: Part) -> list[tuple[Path, int]]:
        """(path, label), by class and then by name; empty if the part's folder is missing."""
        folders = self._class_folders(part)
        return [(path, n) for n, folder in enumerate(folders) for path in folder.images]

    def _class_folders(self, part: Part) -> list[ClassFolder]:
        """One per class; a test part may lack classes."""
        folder = self._train_folder() if part == "train" else self._test_folder()
        if folder is None:
            return []
        classes = self._class_names()
        present = class_folders(folder)
        if unknown_classes := set(present) - set(classes):
            raise root_error(f"{folder} has a class {min(unknown_classes)!r} that is not in train/")
        folders = [
            class_folder(folder / name) if name in present else ClassFolder(folder / name, ())
            for name in classes
        ]
        empty = [folder_of_class for folder_of_class in folders if not folder_of_class.images]
        if part == "train" and empty:
            raise _no_images_error(empty)
        return folders

    def _train_folder(self) -> Path:
        requirement = "must hold train/<class>/ with images, and test/<class>/ or val/<class>/"
        folder = self.root_folder(f"it {requirement}") / "train"
        if not class_folders(folder):
            raise root_error(f"{folder.parent} {requirement}")
        return folder

    def _test_folder(self) -> Path | None:
        parts = (self._train_folder().parent / name for name in ("test", "val"))
        return next((folder for folder in parts if class_folders(folder)), None)

    def _class_names(self) -> tuple[str, ...]:
        return tuple(class_folders(self._train_folder()))


def _no_images_error(empty: list[ClassFolder]) -> ConfigError:
    names = ", ".join(str(folder_of_class.folder) for folder_of_class in empty[:3])
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    return root_error(f"there are no images in {names}{more}; {left_out_note(empty) or FILE_RULE}")


def _to_encoded(path: Path) -> EncodedImage:
    return EncodedImage(str(path), path)
