"""Whole files at a library's place: written, read, listed, moved and deleted.

No link leads out of the place. What it does wrong itself (no room, no answer, no rights) is
:class:`stillhouse.search.core.errors.StorageUnavailable`.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyarrow import fs

from stillhouse.search.artifacts.limits import is_inside
from stillhouse.search.artifacts.places import (
    FAIL_FAST_ATTEMPTS,
    is_object_store,
    open_filesystem,
    storage_remedy,
)
from stillhouse.search.core.addresses import for_display, scrub
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line


class FileStore:
    """The files below an address that :func:`stillhouse.search.artifacts.places.absolute_address`
    gave.

    Args:
        uri: the address.
        found: a folder must be there already.

    Raises:
        ConfigError: the place cannot be reached; later, ``StorageUnavailable``.
    """

    def __init__(self, uri: str, must_exist: bool = False) -> None:
        self._uri = uri
        try:
            filesystem, root = open_filesystem(uri)
            if isinstance(filesystem, fs.LocalFileSystem):
                if must_exist and not Path(root).is_dir():
                    raise FileNotFoundError(f"{platform.node()} does not see that folder")
                Path(root).mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem("library", unusable_message(uri, error))]) from None
        self.filesystem: fs.FileSystem = fs.SubTreeFileSystem(root, filesystem)
        self._local_root = root if isinstance(filesystem, fs.LocalFileSystem) else None
        self.is_object_store = is_object_store(filesystem)

    def check_writable(self) -> None:
        """Write and remove a small file; seconds where an object store does not answer.

        Raises:
            ConfigError: that failed.
        """
        try:
            filesystem = self._fail_fast_filesystem()
            self._write_atomically("scratch/.probe", b"", filesystem)
            filesystem.delete_file("scratch/.probe")
        except OSError as error:
            raise ConfigError([Problem("library", unusable_message(self._uri, error))]) from None

    def write(self, path: str, data: bytes, fail_fast: bool = False) -> None:
        """A reader sees the whole file or none: written aside, then moved into place.

        ``fail_fast`` gives up soon where an object store does not answer.
        """
        with self._translate_errors():
            self._write_atomically(
                path, data, self._fail_fast_filesystem() if fail_fast else self.filesystem
            )

    def read(self, path: str, max_bytes: int | None = None) -> bytes | None:
        """A file's bytes, or one more than ``max_bytes``; None where there is no such file in
        here."""
        with self._translate_errors(), contextlib.suppress(FileNotFoundError):
            return self._read_bytes(path, max_bytes) if self._is_inside(path) else None
        return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with self._translate_errors():
            return bool(self.filesystem.get_file_info(path).type == fs.FileType.File)

    def list_files(self, folder: str) -> list[fs.FileInfo]:
        """All files below a folder; none where it is not there."""
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
        with self._translate_errors():
            infos = self.filesystem.get_file_info(selector)
        return [
            info for info in infos if info.type == fs.FileType.File and self._is_inside(info.path)
        ]

    def has_any_folder(self, names: Iterable[str]) -> bool:
        """Whether any folder of these names lies at the root."""
        selector = fs.FileSelector("", allow_not_found=True)
        with self._translate_errors():
            infos = self.filesystem.get_file_info(selector)
        folders = {info.base_name for info in infos if info.type == fs.FileType.Directory}
        return not folders.isdisjoint(names)

    def move(self, source: str, target: str) -> None:
        """Move a file; nothing where another was faster."""
        with self._translate_errors():
            if not self.is_object_store:
                self.filesystem.create_dir(target.rpartition("/")[0])
            try:
                self.filesystem.move(source, target)
            except FileNotFoundError:
                return  # even if there is another by now
            except OSError:  # object stores have no name of their own for what is not there
                if self.exists(source):
                    raise

    def delete(self, path: str, written_before: datetime.datetime | None = None) -> None:
        """Delete a file; nothing where it is gone, or was written since ``written_before``."""
        with self._translate_errors():
            info = self.filesystem.get_file_info(path)
            if info.type != fs.FileType.File or (written_before and info.mtime >= written_before):
                return
            if not self._is_inside(path):
                return
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(path)

    def _fail_fast_filesystem(self) -> fs.FileSystem:
        """The same place, where an object store that does not answer is soon given up."""
        if not self.is_object_store:
            return self.filesystem
        filesystem, root = open_filesystem(self._uri, FAIL_FAST_ATTEMPTS)
        return fs.SubTreeFileSystem(root, filesystem)

    def _is_inside(self, path: str) -> bool:
        """Whether no link leads out of the place."""
        return self._local_root is None or is_inside(self._local_root, path)

    def _read_bytes(self, path: str, max_bytes: int | None) -> bytes:
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read() if max_bytes is None else stream.read(max_bytes + 1))

    def _write_atomically(self, path: str, data: bytes, filesystem: fs.FileSystem) -> None:
        if not self._is_inside(path):
            raise OSError(f"{path} leads out of the library by a link: name its target instead")
        temporary = path
        if not self.is_object_store:
            folder, _, name = path.rpartition("/")
            temporary = f"{folder}/.{name}.part-{uuid.uuid4().hex[:8]}"
            filesystem.create_dir(folder)
        try:
            _write_bytes(temporary, data, filesystem)
            if temporary != path:
                try:
                    filesystem.move(temporary, path)
                except FileNotFoundError:  # a collector took it for a torn one
                    _write_bytes(temporary, data, filesystem)
                    filesystem.move(temporary, path)
        except OSError:
            if temporary != path:  # a full disk needs no half of a file
                with contextlib.suppress(OSError):
                    filesystem.delete_file(temporary)
            raise

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageUnavailable("library", unusable_message(self._uri, error)) from None


def _write_bytes(path: str, data: bytes, filesystem: fs.FileSystem) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def unusable_message(uri: str, error: Exception) -> str:
    """One line: the place, what it said, and what to do about it."""
    reason = scrub(first_line(error), uri)
    return f"the library {for_display(uri)} cannot be used: {reason}; {storage_remedy(uri, reason)}"
