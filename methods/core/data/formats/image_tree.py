"""Folders of images with one sub-folder per class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from stillhouse.methods.core.data.base.file_kinds import os_error_message, read_obstacle
from stillhouse.methods.core.data.base.source import root_error
from stillhouse.methods.core.data.formats.shards import is_hidden

_MAX_LISTED_FILES = 3
FILE_RULE = "images lie in a folder of their class, are not hidden, and end in one of " + ", ".join(
    IMG_EXTENSIONS
)
"""The rule for files that are read, for messages."""


@dataclass(frozen=True)
class ClassFolder:
    """The images of one class in order; ``left_out`` has the other files of its folder."""

    folder: Path
    images: tuple[Path, ...]
    left_out: tuple[Path, ...] = field(default=())


def class_folders(folder: Path) -> list[str]:
    """The names of the classes in ``folder``, sorted, without hidden folders.

    Raises:
        ConfigError: the folder cannot be read, or holds a broken link.
    """
    return sorted(
        name for name, inner in _scan_folder(folder).items() if inner and not is_hidden(name)
    )


def files_outside_classes(folder: Path) -> ClassFolder:
    """The files outside the class folders."""
    files = sorted(name for name, inner in _scan_folder(folder).items() if not inner)
    return ClassFolder(folder, (), tuple(folder / name for name in files))


def class_folder(folder: Path) -> ClassFolder:
    """The images below the folder of a class, by folder and then by name.

    Raises:
        ConfigError: a folder cannot be read, or a link leads to a folder that was already read.
    """
    images: list[Path] = []
    left_out: list[Path] = []
    for inner, names in sorted(_walk(folder, {})):
        for name in sorted(names):
            is_image = name.lower().endswith(IMG_EXTENSIONS) and not is_hidden(name)
            (images if is_image else left_out).append(Path(inner, name))
    return ClassFolder(folder, tuple(images), tuple(left_out))


def left_out_note(classes: Iterable[ClassFolder]) -> str | None:
    """A sentence about files that are not read; None if all are."""
    files = [path for folder in classes for path in folder.left_out if _is_reported(path)]
    if not files:
        return None
    kinds = Counter(_file_kind(path) for path in files)
    kinds_text = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    examples = ", ".join(str(path) for path in files[:_MAX_LISTED_FILES])
    more = " and others" if len(files) > _MAX_LISTED_FILES else ""
    return f"{len(files)} files are left out, {kinds_text}: {examples}{more}; {FILE_RULE}"


def _walk(folder: Path, visited: dict[tuple[int, int], Path]) -> Iterator[tuple[str, list[str]]]:
    """Each folder and its files; links are followed, but not to a folder that was read."""
    entries = _scan_folder(folder)
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in visited:
        message = (
            f"{folder} leads to {visited[identity]} again, so that its images would count twice"
        )
        raise root_error(f"{message}; remove the link")
    visited[identity] = folder
    yield str(folder), [name for name, inner in entries.items() if not inner]
    for name, inner in entries.items():
        if inner and not is_hidden(name):
            yield from _walk(folder / name, visited)


def _scan_folder(folder: Path) -> dict[str, bool]:
    """Name -> whether it is a folder or a link to one; empty if ``folder`` does not exist."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _is_folder(entry) for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise root_error(f"{folder} {os_error_message(error)}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder.

    Raises:
        ConfigError: it is a broken link, which may replace a folder of images.
    """
    if not entry.is_symlink():
        return entry.is_dir()
    path = Path(entry.path)
    if not is_hidden(entry.name) and (problem := read_obstacle(path)) and not os.path.isdir(path):
        raise root_error(f"{path} {problem}")
    return os.path.isdir(path)


def _is_reported(path: Path) -> bool:
    """Whether a note names the file: hidden files only if they have the ending of an image."""
    return not is_hidden(path.name) or path.name.lower().endswith(IMG_EXTENSIONS)


def _file_kind(path: Path) -> str:
    if is_hidden(path.name):
        return "hidden"
    ending = path.suffix.lower()
    if ending in IMG_EXTENSIONS:
        return "in no class"
    return ending or "without an ending"
