"""The files of a library: write, read, list, move and delete whole files.

No operation follows a link that leads out of the library. Errors of the storage (full, no answer,
no permission) become ``StorageUnavailable``.
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
    """The files below the address of a library.

    Args:
        uri: from ``absolute_address``.
        must_exist: do not create the folder.

    Raises:
        ConfigError: the address cannot be opened. Later errors are ``StorageUnavailable``.
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
        """Write and delete a small file; gives up soon if an object store does not answer.

        Raises:
            ConfigError: the file could not be written or deleted.
        """
        try:
            filesystem = self._fail_fast_filesystem()
            self._write_atomically("scratch/.probe", b"", filesystem)
            filesystem.delete_file("scratch/.probe")
        except OSError as error:
            raise ConfigError([Problem("library", unusable_message(self._uri, error))]) from None

    def write(self, path: str, data: bytes, fail_fast: bool = False) -> None:
        """Write a file atomically: a reader sees the whole file or none.

        With ``fail_fast`` this gives up soon if an object store does not answer.
        """
        with self._translate_errors():
            filesystem = self._fail_fast_filesystem() if fail_fast else self.filesystem
            self._write_atomically(path, data, filesystem)

    def read(self, path: str, max_bytes: int | None = None) -> bytes | None:
        """The first ``max_bytes`` + 1 bytes of a file; None if the library has no such file."""
        with self._translate_errors(), contextlib.suppress(FileNotFoundError):
            return self._read_bytes(path, max_bytes) if self._is_inside(path) else None
        return None

    def exists(self, path: str) -> bool:
        """Whether the file exists."""
        with self._translate_errors():
            return bool(self.filesystem.get_file_info(path).type == fs.FileType.File)

    def list_files(self, folder: str) -> list[fs.FileInfo]:
        """All files below a folder, which may be missing."""
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
        with self._translate_errors():
            infos = self.filesystem.get_file_info(selector)
        return [
            info for info in infos if info.type == fs.FileType.File and self._is_inside(info.path)
        ]

    def has_any_folder(self, names: Iterable[str]) -> bool:
        """Whether the root contains a folder with one of the names."""
        selector = fs.FileSelector("", allow_not_found=True)
        with self._translate_errors():
            infos = self.filesystem.get_file_info(selector)
        folders = {info.base_name for info in infos if info.type == fs.FileType.Directory}
        return not folders.isdisjoint(names)

    def move(self, source: str, target: str) -> None:
        """Move a file; does nothing if another process has moved it."""
        with self._translate_errors():
            if not self.is_object_store:
                self.filesystem.create_dir(target.rpartition("/")[0])
            try:
                self.filesystem.move(source, target)
            except FileNotFoundError:
                return  # even if another process has written it again by now
            except OSError:  # object stores have no special error for a missing file
                if self.exists(source):
                    raise

    def delete(self, path: str, written_before: datetime.datetime | None = None) -> None:
        """Delete a file, unless it is gone or was written after ``written_before``."""
        with self._translate_errors():
            info = self.filesystem.get_file_info(path)
            if info.type != fs.FileType.File or (written_before and info.mtime >= written_before):
                return
            if not self._is_inside(path):
                return
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(path)

    def _fail_fast_filesystem(self) -> fs.FileSystem:
        """The same file system, with few attempts for an object store that does not answer."""
        if not self.is_object_store:
            return self.filesystem
        filesystem, root = open_filesystem(self._uri, FAIL_FAST_ATTEMPTS)
        return fs.SubTreeFileSystem(root, filesystem)

    def _is_inside(self, path: str) -> bool:
        """Whether the path stays in the library when links are resolved."""
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
                except FileNotFoundError:  # a collector has deleted it as an incomplete file
                    _write_bytes(temporary, data, filesystem)
                    filesystem.move(temporary, path)
        except OSError:
            if temporary != path:  # leave no incomplete file on a full disk
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
    """The address, the reason and a remedy, in one line."""
    reason = scrub(first_line(error), uri)
    return f"the library {for_display(uri)} cannot be used: {reason}; {storage_remedy(uri, reason)}"
