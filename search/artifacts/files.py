"""Whole files at a library's place: written, read, listed, moved and deleted.

No link leads out of the place. What it does wrong itself (no room, no answer, no rights) is
:class:`stillhouse.search.core.errors.Lost`.
"""

from __future__ import annotations

import contextlib
import datetime
import platform
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyarrow import fs

from stillhouse.search.artifacts.limits import within
from stillhouse.search.artifacts.places import ALOOF, in_one_step, open_place, remedy
from stillhouse.search.core.addresses import hushed, shown
from stillhouse.search.core.errors import Lost
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line


class Files:
    """The files below an address that :func:`stillhouse.search.artifacts.places.absolute` gave.

    Args:
        uri: the address.
        found: a folder must be there already.

    Raises:
        ConfigError: the place cannot be reached; later, ``Lost``.
    """

    def __init__(self, uri: str, found: bool = False) -> None:
        self._uri = uri
        try:
            system, root = open_place(uri)
            if isinstance(system, fs.LocalFileSystem):
                if found and not Path(root).is_dir():
                    raise FileNotFoundError(f"{platform.node()} does not see that folder")
                Path(root).mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise ConfigError([Problem("library", unusable(uri, error))]) from None
        self.system: fs.FileSystem = fs.SubTreeFileSystem(root, system)
        self._folder = root if isinstance(system, fs.LocalFileSystem) else None
        self.in_one_step = in_one_step(system)

    def check_writable(self) -> None:
        """Write and remove a small file; seconds where an object store does not answer.

        Raises:
            ConfigError: that failed.
        """
        try:
            system = self._aloof()
            self._put("scratch/.probe", b"", system)
            system.delete_file("scratch/.probe")
        except OSError as error:
            raise ConfigError([Problem("library", unusable(self._uri, error))]) from None

    def write(self, path: str, data: bytes, soon: bool = False) -> None:
        """A reader sees the whole file or none: written aside, then moved into place.

        ``soon`` gives up soon where an object store does not answer.
        """
        with self._lost():
            self._put(path, data, self._aloof() if soon else self.system)

    def read(self, path: str, most: int | None = None) -> bytes | None:
        """A file's bytes, or one more than ``most``; None where there is no such file in here."""
        with self._lost(), contextlib.suppress(FileNotFoundError):
            return self._get(path, most) if self._inside(path) else None
        return None

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with self._lost():
            return bool(self.system.get_file_info(path).type == fs.FileType.File)

    def list(self, folder: str) -> list[fs.FileInfo]:
        """All files below a folder; none where it is not there."""
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
        with self._lost():
            found = self.system.get_file_info(selector)
        return [i for i in found if i.type == fs.FileType.File and self._inside(i.path)]

    def holds_any(self, names: Iterable[str]) -> bool:
        """Whether any folder of these names lies at the root."""
        selector = fs.FileSelector("", allow_not_found=True)
        with self._lost():
            infos = self.system.get_file_info(selector)
        folders = {info.base_name for info in infos if info.type == fs.FileType.Directory}
        return not folders.isdisjoint(names)

    def move(self, source: str, target: str) -> None:
        """Move a file; nothing where another was faster."""
        with self._lost():
            if not self.in_one_step:
                self.system.create_dir(target.rpartition("/")[0])
            try:
                self.system.move(source, target)
            except FileNotFoundError:
                return  # even if there is another by now
            except OSError:  # object stores have no name of their own for what is not there
                if self.exists(source):
                    raise

    def delete(self, path: str, before: datetime.datetime | None = None) -> None:
        """Delete a file; nothing where it is gone, or was written since ``before``."""
        with self._lost():
            info = self.system.get_file_info(path)
            if info.type != fs.FileType.File or (before and info.mtime >= before):
                return
            if not self._inside(path):
                return
            with contextlib.suppress(FileNotFoundError):
                self.system.delete_file(path)

    def _aloof(self) -> fs.FileSystem:
        """The same place, where an object store that does not answer is soon given up."""
        if not self.in_one_step:
            return self.system
        system, root = open_place(self._uri, ALOOF)
        return fs.SubTreeFileSystem(root, system)

    def _inside(self, path: str) -> bool:
        """Whether no link leads out of the place."""
        return self._folder is None or within(self._folder, path)

    def _get(self, path: str, most: int | None) -> bytes:
        with self.system.open_input_stream(path) as stream:
            return bytes(stream.read() if most is None else stream.read(most + 1))

    def _put(self, path: str, data: bytes, system: fs.FileSystem) -> None:
        if not self._inside(path):
            raise OSError(f"{path} leads out of the library by a link: name its target instead")
        aside = path
        if not self.in_one_step:
            folder, _, name = path.rpartition("/")
            aside = f"{folder}/.{name}.part-{uuid.uuid4().hex[:8]}"
            system.create_dir(folder)
        try:
            _fill(aside, data, system)
            if aside != path:
                try:
                    system.move(aside, path)
                except FileNotFoundError:  # a collector took it for a torn one
                    _fill(aside, data, system)
                    system.move(aside, path)
        except OSError:
            if aside != path:  # a full disk needs no half of a file
                with contextlib.suppress(OSError):
                    system.delete_file(aside)
            raise

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Lost("library", unusable(self._uri, error)) from None


def _fill(path: str, data: bytes, system: fs.FileSystem) -> None:
    with system.open_output_stream(path) as stream:
        stream.write(data)


def unusable(uri: str, error: Exception) -> str:
    """One line: the place, what it said, and what to do about it."""
    reason = hushed(first_line(error), uri)
    return f"the library {shown(uri)} cannot be used: {reason}; {remedy(uri, reason)}"
