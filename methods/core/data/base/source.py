"""Sources: where a data set's images and labels come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stillhouse.methods.core.data.base.file_fingerprint import files_fingerprint
from stillhouse.methods.core.data.base.file_kinds import (
    FileForm,
    foreign_content,
    os_error_message,
    read_head,
    read_obstacle,
)
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Shape

Part = Literal["train", "test"]
"""The two parts of a published data set."""
PARTS: tuple[Part, ...] = ("train", "test")
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class SourceInfo:
    """Facts of a source that need no pass over its images.

    ``mean`` and ``std`` are the published values per channel for images in 0..1, or None.
    """

    shape: Shape
    class_names: tuple[str, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Reader(Protocol):
    """A reader of one storage format of a set."""

    def files(self) -> list[Path]: ...

    def labels(self, part: Part) -> Labels: ...

    def image_chunks(self, part: Part) -> Iterator[Images]: ...


class Source(Config):
    """The settings and the reader of a data set; each file in ``sources`` defines one.

    Raise ``version`` if the same files give other images or labels. Above ``names_only_above``
    bytes in all, the fingerprint uses the names and sizes of the files, not their contents.
    """

    version: ClassVar[int] = 1
    names_only_above: ClassVar[int | None] = None

    root: str | None = setting(None, "folder that holds the data set")
    download: bool = setting(False, "fetch what is missing, where the set can be fetched")

    def files(self) -> list[Path]:
        """All files that decide the content; none for a set that comes with a library.

        Raises:
            ConfigError: files are missing; the message names them and their folder.
        """
        raise NotImplementedError

    def info(self) -> SourceInfo:
        """Shape, classes and published normalisation; decodes at most one image."""
        raise NotImplementedError

    def labels(self, part: Part) -> Labels:
        """The labels [N]; [0] if there is no such part.

        Raises:
            ConfigError: a file is damaged; the message names it.
        """
        raise NotImplementedError

    def image_chunks(self, part: Part) -> Iterator[Images]:
        """The images in order, in chunks [n, C, H, W].

        Raises:
            ConfigError: a file is damaged; the message names it.
        """
        raise NotImplementedError

    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about files that were left out and similar decisions."""
        return ()

    def read_all(self, part: Part) -> tuple[Images, Labels]:
        """All images [N, C, H, W] and labels [N] in memory."""
        labels = self.labels(part)
        if not len(labels):
            return np.empty((0, *self.info().shape), np.uint8), labels
        return np.concatenate(list(self.image_chunks(part))), labels

    def fingerprint(self) -> str:
        """sha256 (hexadecimal) of the content; it decodes nothing."""
        return files_fingerprint(self.files(), self.names_only_above)

    def effective_version(self) -> int:
        """The lowest version that gives the same images and labels for these files."""
        return self.version

    def identity(self) -> dict[str, Any]:
        """The plain data that decides all images and labels."""
        return {
            **self.settings(),
            "version": self.effective_version(),
            "fingerprint": self.fingerprint(),
        }

    def settings(self) -> dict[str, Any]:
        """All settings except ``root`` and ``download``, as plain data."""
        return {k: v for k, v in self.plain().items() if k not in ("root", "download")}

    def root_folder(self, requirement: str) -> Path:
        """``root`` as a path; ``requirement`` describes its content for the message.

        Raises:
            ConfigError: no root is set.
        """
        if self.root is None:
            raise root_error(f"is not set; {requirement}")
        return Path(self.root).expanduser()


def check_class_names(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Check the class names of a setting.

    Raises:
        ValueError: fewer than two names, or a name occurs twice.
    """
    if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
        raise ValueError(f"needs two class names or more, each once, found {list(names)}")
    return names


def root_error(message: str) -> ConfigError:
    """An error about the folder ``root`` or a file in it."""
    return ConfigError([Problem("root", message)])


def damaged_file_error(
    path: Path | str, explanation: object, form: FileForm, head: bytes = b""
) -> ConfigError:
    """The error for a file that cannot be read as a ``form``.

    Args:
        path: of the file, or a text that names an example in it.
        explanation: the reader's message; the first bytes often give a better one.
        form: the expected kind of the file.
        head: the first bytes, if ``path`` is a text.
    """
    if isinstance(path, Path):
        if problem := read_obstacle(path):
            return root_error(f"{path} {problem}")
        head = read_head(path)
        explanation = explanation if head else "it is empty"
    if isinstance(explanation, OSError) and explanation.errno is not None:
        return root_error(f"{path} {os_error_message(explanation)}")
    description = " ".join(str(explanation).split()) or type(explanation).__name__
    remedy = "mend it, or put" if form == "text" and head else "put"
    return wrong_form_error(path, head, form) or root_error(
        f"{path} is damaged: {description}; {remedy} a fresh copy in its place"
    )


def wrong_form_error(path: Path | str, head: bytes, form: FileForm) -> ConfigError | None:
    """The error for a file whose first bytes show another kind than ``form``, or None."""
    content = foreign_content(head, form)
    expected = "file of its format" if form == "binary" else f"{form} file"
    return root_error(f"{path} is no {expected}: it holds {content}") if content else None
