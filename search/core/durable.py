"""Files that a power loss or a full disk leaves whole: the old text or the new one.

Every file that a run replaces as a whole is written here. Journals and spools only grow, and look
after their last line themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: str | bytes) -> Path:
    """Replace a file, whole or not at all; returns ``path`` once the disk has it.

    Raises:
        OSError: it could not be written; the old file is still there.
    """
    temp_path = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        temp_path.write_bytes(data.encode() if isinstance(data, str) else data)
        return replace_atomically(temp_path, path)
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise


def replace_atomically(temp_path: Path, path: Path) -> Path:
    """Put a file that was written elsewhere in the same folder in the place of ``path``."""
    _fsync(temp_path)
    temp_path.replace(path)
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    with contextlib.suppress(OSError):  # some file systems know no such thing
        _fsync(folder)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has every file below a folder."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            _fsync(path)


def read_json_mapping(path: Path) -> dict[str, Any] | None:
    """The JSON mapping in a file; none if the file is damaged.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        data = json.loads(path.read_bytes())
    except ValueError:  # also half a letter
        return None
    return data if isinstance(data, dict) else None


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
