"""Validate the names and paths in a library, since other programs may have written there."""

from __future__ import annotations

import json
import os
import re
from typing import Any

MAX_METADATA_BYTES = 32 * 2**20
"""Size limit of a record or a list of keys; a curve of 100,000 epochs is smaller."""
LIBRARY_FOLDERS = ("artifacts", "scratch", "damaged", "searches", "status")
"""The folders at the root of a library."""
_KEY = re.compile(r"[0-9a-f]{64}")
_PAYLOAD = re.compile(r"[0-9a-f]{32}\.safetensors")
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_LIBRARY_FILE = re.compile(
    r"artifacts/[0-9a-f]{2}/[0-9a-f]{64}/"
    r"(record\.json|[0-9a-f]{32}\.safetensors|\.[^/]+\.part-[0-9a-f]{8})"
    r"|scratch/([\w-]+\.safetensors|\.[^/]+)"
    r"|damaged/[^/]+/[^/]+"
)


class UnreadableFile(ValueError):
    """A file that no version of this program can have written."""


def is_key(text: object) -> bool:
    """Whether it is a key: a sha256 digest in hexadecimal digits."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def is_safe_name(name: str) -> bool:
    """Whether it may be the id of a run, or the name of a checkpoint."""
    return _SAFE_NAME.fullmatch(name) is not None


def require_safe_name(name: str) -> str:
    """The name, if it is safe as a part of a path.

    Raises:
        ValueError: the name contains other characters than letters, digits, - and _.
    """
    if not is_safe_name(name):
        raise ValueError(f"{name!r} is no name: letters, digits, - and _")
    return name


def parse_json(data: bytes) -> Any:
    """Parse JSON of limited size.

    Raises:
        UnreadableFile: the data is too large, or is no JSON.
    """
    if len(data) > MAX_METADATA_BYTES:
        raise UnreadableFile("too large")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(str(error)) from None


def is_library_file(path: str) -> bool:
    """Whether it is a library's path of an artifact's file or a checkpoint, complete or not."""
    return _LIBRARY_FILE.fullmatch(path) is not None


def is_payload(name: object) -> bool:
    """Whether it is the file name of a payload."""
    return isinstance(name, str) and _PAYLOAD.fullmatch(name) is not None


def is_inside(root: str, path: str) -> bool:
    """Whether ``path`` stays below the folder ``root`` when links are resolved."""
    real_root = os.path.realpath(root)
    return os.path.realpath(os.path.join(real_root, path)).startswith(os.path.join(real_root, ""))
