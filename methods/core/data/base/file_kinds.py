"""The real kind of a file, from its first bytes."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Literal

HEAD_BYTES = 512
"""Number of first bytes that identify the kind of a file."""

FileForm = Literal["Parquet", "image", "text", "binary"]
"""The expected kind: a table, an encoded image, UTF-8 text, or another binary format."""

_SIGNATURES: tuple[tuple[bytes, FileForm | None, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        None,
        "a Git LFS pointer; `git lfs pull` fetches the file itself",
    ),
    (b"\x00\x05\x16\x07", None, "macOS metadata of a file (AppleDouble), not the file; delete it"),
    (b"PAR1", "Parquet", "Parquet; let its name end in .parquet"),
    (b"ARROW1", None, "an Arrow table; write it as Parquet"),
    (b"\x1f\x8b", None, "data compressed by gzip; unpack it"),
    (b"BZh9", None, "data compressed by bzip2; unpack it"),
    (b"\xfd7zXZ", None, "data compressed by xz; unpack it"),
    (b"(\xb5/\xfd", None, "data compressed by Zstandard; unpack it"),
    (b"PK\x03\x04", None, "a ZIP archive or a spreadsheet; unpack it, or save it as CSV"),
    (b"\x80\x04\x95", "binary", "a Python pickle, which is never read; write it as Parquet"),
    (b"SQLite format 3", None, "an SQLite database; write its table as Parquet or CSV"),
    (b"\xff\xfe", None, "text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", None, "text in UTF-16; save it as UTF-8"),
    (b"\x89PNG", "image", "a PNG image"),
    (b"\xff\xd8\xff", "image", "a JPEG image"),
    (b"%PDF-", None, "a PDF document"),
)
_HTML_SIGNATURES = (b"<!doctype html", b"<html", b"<head", b"<?xml")


def read_head(path: Path) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def foreign_content(head: bytes, form: FileForm) -> str | None:
    """The content of a file that is not a ``form``, with a remedy; None if unknown.

    Args:
        head: the first bytes of the file.
    """
    for signature, matching_form, meaning in _SIGNATURES:
        if head.startswith(signature):
            return None if matching_form == form else meaning
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_SIGNATURES):
        return "a web page (HTML or XML); the download went wrong, so fetch the file again"
    return _text_kind(head) if form in ("Parquet", "image") else None


def read_obstacle(path: Path) -> str | None:
    """Why a path cannot be read as a file, with a remedy; None if it can be."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _broken_link_message(path) or os_error_message(error)
    if stat.S_ISDIR(mode):
        return "is a folder, not a file; name the files in it"
    if not stat.S_ISREG(mode):
        return "is a pipe or a device, not a file"
    if not os.access(path, os.R_OK):
        return "cannot be read: permission denied; allow this user to read it"
    return None


def os_error_message(error: OSError) -> str:
    """``cannot be read: ...`` with the message of the operating system."""
    message = (error.strerror or str(error) or type(error).__name__).lower()
    return f"cannot be read: {message}"


def _broken_link_message(path: Path) -> str | None:
    if not os.path.islink(path):  # unlike pathlib's, it works without permission to read the folder
        return None
    return f"is a broken link to {os.readlink(path)}; remove it, or put the file there"


def _text_kind(head: bytes) -> str | None:
    """The kind of text, or None; the last character may be incomplete."""
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return None
    if not text or any(not char.isprintable() and char not in "\t\r\n" for char in text):
        return None
    line = text.splitlines()[0]
    if line.lstrip().startswith("{"):
        return "JSON; let its name end in .jsonl, and the source `text` reads it"
    for mark, kind, ending in (("\t", "tab-separated text", ".tsv"), (",", "CSV", ".csv")):
        if mark in line:
            return f"{kind}; let its name end in {ending}, and the source `text` reads it"
    return "plain text"
