"""What may be a name in a library, and where in it a path leads. Others may have written there."""

from __future__ import annotations

import json
import os
import re
from typing import Any

MAX_METADATA_BYTES = 32 * 2**20
"""Of a record or a list of keys; a curve of 100,000 epochs takes less."""
LIBRARY_FOLDERS = ("artifacts", "scratch", "damaged", "searches", "status")
"""What lies at a library's root."""
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
    """A file that cannot have been written by any version of this library."""


def is_key(text: object) -> bool:
    """Whether it has the form of a key: sha256, hexadecimal."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def is_safe_name(name: str) -> bool:
    """Whether it may be the id of a run, or the name of half-done work."""
    return _SAFE_NAME.fullmatch(name) is not None


def require_safe_name(name: str) -> str:
    """The id of a run, or the name of half-done work, as part of a path.

    Raises:
        ValueError: it holds anything but letters, digits, - and _.
    """
    if not is_safe_name(name):
        raise ValueError(f"{name!r} is no name: letters, digits, - and _")
    return name


def parse_json(data: bytes) -> Any:
    """JSON of a bounded size.

    Raises:
        Unreadable: it is not that.
    """
    if len(data) > MAX_METADATA_BYTES:
        raise UnreadableFile("too large")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(str(error)) from None


def is_library_file(path: str) -> bool:
    """Whether a library gives such a name to an artifact's file, whole or torn, or to a file of a
    half-done stage."""
    return _LIBRARY_FILE.fullmatch(path) is not None


def is_payload(name: object) -> bool:
    """Whether it is how an artifact's own payload is called."""
    return isinstance(name, str) and _PAYLOAD.fullmatch(name) is not None


def is_inside(root: str, path: str) -> bool:
    """Whether ``path`` below the folder ``root`` lies there, whatever links are on the way."""
    real_root = os.path.realpath(root)
    return os.path.realpath(os.path.join(real_root, path)).startswith(os.path.join(real_root, ""))
