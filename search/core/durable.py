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


def write_whole(path: Path, data: str | bytes) -> Path:
    """Replace a file, whole or not at all; returns ``path`` once the disk has it.

    Raises:
        OSError: it could not be written; the old file is still there.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)
        return move_whole(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def move_whole(aside: Path, path: Path) -> Path:
    """Put a file that was written elsewhere in the same folder in the place of ``path``."""
    _sync(aside)
    aside.replace(path)
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder."""
    with contextlib.suppress(OSError):  # some file systems know no such thing
        _sync(folder)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has every file below a folder."""
    for place in (*folder.rglob("*"), folder):
        if place.is_dir():
            sync_folder(place)
        else:
            _sync(place)


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The JSON mapping in a file; none if the file is damaged.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError:  # also half a letter
        return None
    return found if isinstance(found, dict) else None


def _sync(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
