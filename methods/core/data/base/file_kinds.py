"""What a file really holds, seen from its first bytes, whatever its name says."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Literal

HEAD_BYTES = 512
"""So many first bytes tell what a file is."""

FileForm = Literal["Parquet", "image", "text", "binary"]
"""What a reader expects: a table, an encoded image, UTF-8 text, or bytes of its own format."""

_SIGNATURES: tuple[tuple[bytes, FileForm | None, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        None,
        "a Git LFS pointer; `git lfs pull` fetches the file itself",
    ),
    (
        b"\x00\x05\x16\x07",
        None,
        "what macOS notes about a file (AppleDouble), not the file; delete it",
    ),
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
    """The first bytes of a file; none where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def foreign_content(head: bytes, form: FileForm) -> str | None:
    """What a file holds in place of ``form``, with a remedy; none where its head shows nothing.

    Args:
        head: its first bytes.
    """
    for signature, matching_form, meaning in _SIGNATURES:
        if head.startswith(signature):
            return None if matching_form == form else meaning
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_HTML_SIGNATURES):
        return "a web page (HTML or XML); the download went wrong, so fetch the file again"
    return _text_kind(head) if form in ("Parquet", "image") else None


def read_obstacle(path: Path) -> str | None:
    """What keeps a path from being read as a file, with a remedy; none where nothing does."""
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
    """``cannot be read: ...`` in the words of the operating system."""
    message = (error.strerror or str(error) or type(error).__name__).lower()
    return f"cannot be read: {message}"


def _broken_link_message(path: Path) -> str | None:
    if not os.path.islink(path):  # unlike pathlib's it also answers where rights are missing
        return None
    return f"is a broken link to {os.readlink(path)}; remove it, or put the file there"


def _text_kind(head: bytes) -> str | None:
    """The kind of text, if it is one; a letter may be cut in two at the end."""
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
