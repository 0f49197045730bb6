"""A fingerprint of the content of a data set's files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from stillhouse.methods.core.data.base.file_kinds import os_error_message, read_obstacle
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError, Problem


class _File(NamedTuple):
    name: str
    path: str
    size: int
    modified: int


def files_fingerprint(files: Iterable[Path], names_only_above: int | None = None) -> str:
    """sha256 (hexadecimal) over the files' contents and their names, sorted.

    Names are relative to the common folder of all files, so a set can be moved. A process reads
    files again only if paths, sizes or times change.

    Args:
        names_only_above: total bytes above which names and sizes replace the contents.

    Raises:
        ConfigError: a file is missing or cannot be read; the message names it.
    """
    paths = sorted(Path(os.path.abspath(path)) for path in files)
    common_folder = Path(os.path.commonpath([path.parent for path in paths]))
    listing = tuple(_stat_file(path, common_folder) for path in paths)
    total = sum(file.size for file in listing)
    if names_only_above is not None and total > names_only_above:
        return fingerprint([[file.name, file.size] for file in listing])
    return _content_fingerprint(listing)


def _stat_file(path: Path, shared: Path) -> _File:
    try:
        status = path.stat()
    except OSError:
        raise _unreadable_error(path) from None
    if not stat.S_ISREG(status.st_mode):
        raise _unreadable_error(path)
    name = path.relative_to(shared).as_posix()
    return _File(name, str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def _content_fingerprint(listing: tuple[_File, ...]) -> str:
    return fingerprint([[file.name, _file_digest(file.path)] for file in listing])


def _file_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable_error(Path(path), error) from None


def _unreadable_error(path: Path, error: OSError | None = None) -> ConfigError:
    explanation = read_obstacle(path) or (os_error_message(error) if error else "cannot be read")
    return ConfigError([Problem("root", f"{path} {explanation}")])
