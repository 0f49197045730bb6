"""The folders of a set of images: one sub-folder a class, and the images in each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from stillhouse.methods.core.data.base.file_kinds import obstacle, reason
from stillhouse.methods.core.data.base.source import root_problem
from stillhouse.methods.core.data.formats.shards import is_hidden

_MOST_NAMED = 3
RULE = "images lie in a folder of their class, are not hidden, and end in one of " + ", ".join(
    IMG_EXTENSIONS
)
"""Which files are read."""


@dataclass(frozen=True)
class ClassFolder:
    """The images of one class in order; ``left_out`` are the other files in its folder."""

    folder: Path
    images: tuple[Path, ...]
    left_out: tuple[Path, ...] = field(default=())


def class_folders(folder: Path) -> list[str]:
    """The names of the classes in ``folder``, sorted; hidden folders are none.

    Raises:
        ConfigError: the folder cannot be read, or holds a broken link.
    """
    return sorted(name for name, inner in _entries(folder).items() if inner and not is_hidden(name))


def outside(folder: Path) -> ClassFolder:
    """The files beside the folders of classes, which belong to no class."""
    files = sorted(name for name, inner in _entries(folder).items() if not inner)
    return ClassFolder(folder, (), tuple(folder / name for name in files))


def class_folder(folder: Path) -> ClassFolder:
    """The images below the folder of a class, by folder and then by name.

    Raises:
        ConfigError: a folder cannot be read, or a link leads to a folder that was read already.
    """
    images: list[Path] = []
    left_out: list[Path] = []
    for inner, names in sorted(_walked(folder, {})):
        for name in sorted(names):
            wanted = name.lower().endswith(IMG_EXTENSIONS) and not is_hidden(name)
            (images if wanted else left_out).append(Path(inner, name))
    return ClassFolder(folder, tuple(images), tuple(left_out))


def left_out(classes: Iterable[ClassFolder]) -> str | None:
    """A sentence about the files that are no images of a class; none if all are."""
    files = [path for each in classes for path in each.left_out if _worth_a_word(path)]
    if not files:
        return None
    kinds = Counter(_kind(path) for path in files)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    some = ", ".join(str(path) for path in files[:_MOST_NAMED])
    more = " and others" if len(files) > _MOST_NAMED else ""
    return f"{len(files)} files are left out, {told}: {some}{more}; {RULE}"


def _walked(folder: Path, seen: dict[tuple[int, int], Path]) -> Iterator[tuple[str, list[str]]]:
    """Each folder and its files; links are followed, but no folder is read twice."""
    entries = _entries(folder)
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        message = f"{folder} leads to {seen[identity]} again, so that its images would count twice"
        raise root_problem(f"{message}; remove the link")
    seen[identity] = folder
    yield str(folder), [name for name, inner in entries.items() if not inner]
    for name, inner in entries.items():
        if inner and not is_hidden(name):
            yield from _walked(folder / name, seen)


def _entries(folder: Path) -> dict[str, bool]:
    """Name -> whether it is a folder, or a link to one; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _is_folder(entry) for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise root_problem(f"{folder} {reason(error)}") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder.

    Raises:
        ConfigError: it is a link to nowhere, which may stand for a folder of images.
    """
    if not entry.is_symlink():
        return entry.is_dir()
    path = Path(entry.path)
    if not is_hidden(entry.name) and (found := obstacle(path)) and not os.path.isdir(path):
        raise root_problem(f"{path} {found}")
    return os.path.isdir(path)


def _worth_a_word(path: Path) -> bool:
    """Hidden files are, where they are called as images are."""
    return not is_hidden(path.name) or path.name.lower().endswith(IMG_EXTENSIONS)


def _kind(path: Path) -> str:
    if is_hidden(path.name):
        return "hidden"
    ending = path.suffix.lower()
    if ending in IMG_EXTENSIONS:
        return "in no class"
    return ending or "without an ending"
