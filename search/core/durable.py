"""Atomic writes: after a power loss or on a full disk, a file has its old or its new text.

All files of a run that are replaced are written here. Journals are appended to, and repair their
last line themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: str | bytes) -> Path:
    """Replace a file atomically; returns ``path`` when the file is on the disk.

    Raises:
        OSError: the file could not be written; the old file is unchanged.
    """
    temp_path = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        temp_path.write_bytes(data.encode() if isinstance(data, str) else data)
        return replace_atomically(temp_path, path)
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise


def replace_atomically(temp_path: Path, path: Path) -> Path:
    """Replace ``path`` by a finished file of the same folder."""
    _fsync(temp_path)
    temp_path.replace(path)
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    with contextlib.suppress(OSError):  # some file systems cannot sync folders
        _fsync(folder)


def sync_tree(folder: Path) -> None:
    """Wait until every file below a folder is on the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            _fsync(path)


def read_json_mapping(path: Path) -> dict[str, Any] | None:
    """The JSON mapping in a file; None if the file is damaged.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        data = json.loads(path.read_bytes())
    except ValueError:  # also a truncated UTF-8 sequence
        return None
    return data if isinstance(data, dict) else None


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
