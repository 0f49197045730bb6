"""The library: publish, open, verify and collect artifacts.

Layout below the root::

    artifacts/<2 of key>/<key>/<digest>.safetensors    the tensors, named by their content
    artifacts/<2 of key>/<key>/record.json             written last: no record, no artifact
    scratch/<key>.safetensors                          a half-done stage, last saved epoch
    damaged/<key>-<n>/                                 set aside by a failed digest
    searches/<name>.json                               the keys a search needs, for ``collect``
    status/<name>@<host>.json                          how a search stands (search/bulletin.py)

Nothing is ever unpickled, and no name and no link leads out of the root. Two publishers of one key
are harmless: each payload has its own name and the record that lands last names one of them.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import safetensors.torch
from pyarrow import fs
from torch import Tensor

from search.library.bounds import MOST_BYTES, Unreadable, as_record, is_key, plain, within, word
from search.library.place import ALOOF, absolute, in_one_step, open_place, remedy, shown
from search.library.record import Payload, Record
from search.stage import Artifact
from spaces.problem import ConfigError, Problem


class Damaged(RuntimeError):
    """A payload that does not match its digest; it has been set aside."""


class Library:
    """A library at ``uri``: a folder, or what :mod:`search.library.place` opens.

    Args:
        uri: its address.
        found: a folder must be there already. Workers ask for that: one on a machine that does
            not see the driver's folder would else fill another of the same name.

    Raises:
        ConfigError: the place cannot be reached or written.
    """

    def __init__(self, uri: str, found: bool = False) -> None:
        self.uri = absolute(uri)
        try:
            system, root = open_place(self.uri)
            if isinstance(system, fs.LocalFileSystem):
                if found and not Path(root).is_dir():
                    raise FileNotFoundError(f"{platform.node()} does not see that folder")
                Path(root).mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise _unusable(self.uri, error) from None
        self._files = fs.SubTreeFileSystem(root, system)
        self._folder = root if isinstance(system, fs.LocalFileSystem) else None
        self._in_one_step = in_one_step(system)
        self._records: dict[str, Record] = {}

    def __reduce__(self) -> tuple[type[Library], tuple[str]]:
        return type(self), (self.uri,)

    def check_writable(self) -> None:
        """Write and remove a small file; seconds where an object store does not answer.

        Raises:
            ConfigError: that failed.
        """
        try:
            files = self._aloof()
            self._write("scratch/.probe", b"", files)
            files.delete_file("scratch/.probe")
        except OSError as error:
            raise _unusable(self.uri, error) from None

    def place_of(self, folder: str) -> tuple[fs.FileSystem, str]:
        """The file system, and the path of a folder in here, for who keeps files of its own."""
        return self._files.base_fs, f"{self._files.base_path}{folder}"

    @property
    def in_one_step(self) -> bool:
        """Whether it lies in an object store rather than a folder."""
        return self._in_one_step

    # Artifacts

    def has(self, key: str) -> bool:
        """Whether a whole artifact is there."""
        return self.record(key) is not None

    def record(self, key: str) -> Record | None:
        """The record of ``key``; none if there is no whole artifact.

        Raises:
            ConfigError: the record has another form than this version writes.
        """
        if key not in self._records:
            place = f"{_folder(key)}/record.json"
            data = self._read(place, MOST_BYTES) if is_key(key) else None
            if data is None:
                return None
            try:
                self._records[key] = as_record(data, key, f"{shown(self.uri)}/{place}")
            except Unreadable:  # damaged like a payload
                self.set_aside(key)
                return None
        return self._records[key]

    def publish(self, record: Record, data: bytes) -> None:
        """Keep the bytes that ``record.payload`` describes, and then the record."""
        self._write(f"{_folder(record.key)}/{record.payload.name}", data)
        text = json.dumps(record.plain(), indent=1, sort_keys=True)
        self._write(f"{_folder(record.key)}/record.json", text.encode())
        self._records[record.key] = record
        self.clear_scratch(record.key)

    def open(self, key: str) -> Artifact:
        """The artifact, its bytes checked against the record's digest.

        Raises:
            KeyError: there is none.
            Damaged: the bytes are not those that were published; the artifact is set aside.
        """
        record = self.record(key)
        if record is None:
            raise KeyError(key)
        data = self._read(f"{_folder(key)}/{record.payload.name}", record.payload.size)
        whole = data is not None and hashlib.sha256(data).hexdigest() == record.payload.sha256
        tensors = _unpacked(data) if data is not None and whole else None
        if tensors is None:
            self.set_aside(key)
            raise Damaged(f"artifact {key[:12]} ({record.name}) is damaged and was set aside")
        return Artifact(record, tensors)

    def set_aside(self, key: str) -> None:
        """Move a damaged artifact out of the way, so that it is made again."""
        self._records.pop(key, None)
        aside = f"damaged/{key}-{uuid.uuid4().hex[:8]}"
        if not self._in_one_step:
            self._files.create_dir(aside)
        # One by one, as object stores do not move folders; the record first, so that nobody
        # finds it without its payload.
        files = sorted(self._list(_folder(key)), key=lambda info: info.base_name != "record.json")
        for info in files:
            try:
                self._files.move(info.path, f"{aside}/{info.base_name}")
            except OSError:
                if self._exists(info.path):
                    raise
                # Another reader was faster; object stores have no name of their own for that.

    def keys(self) -> Iterator[str]:
        """The keys of all whole artifacts."""
        for info in self._list("artifacts"):
            key = info.path.split("/")[-2]
            if is_key(key) and info.path == f"{_folder(key)}/record.json":
                yield key

    def records(self) -> list[Record]:
        """All records, newest first."""
        with ThreadPoolExecutor(16) as pool:
            found = [record for record in pool.map(self.record, self.keys()) if record]
        return sorted(found, key=lambda record: record.made_at, reverse=True)

    def find(self, beginning: str) -> Record:
        """The one record whose key begins with ``beginning``.

        Raises:
            ConfigError: none or several do.
        """
        matches = [key for key in self.keys() if key.startswith(beginning)]
        record = self.record(matches[0]) if len(matches) == 1 else None
        if record is None:
            found = f"{len(matches)} do" if matches else "none does"
            message = f"needs one artifact whose key begins with {beginning!r}; {found}"
            raise ConfigError([Problem(shown(self.uri), message)])
        return record

    def remove(self, key: str) -> None:
        """Delete an artifact for good; the record goes first."""
        self._records.pop(key, None)
        self._files.delete_file(f"{_folder(key)}/record.json")
        self._files.delete_dir(_folder(key))

    # Half-done stages

    def save_scratch(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Replace the saved state of a half-done stage."""
        _, data = pack(tensors)
        self._write(_scratch(key), hashlib.sha256(data).digest() + data)

    def load_scratch(self, key: str) -> dict[str, Tensor] | None:
        """The saved state, or none; a torn file counts as none."""
        data = self._read(_scratch(key))
        if data is None or hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return _unpacked(data[32:])

    def clear_scratch(self, key: str) -> None:
        """Forget the saved state, if there is any."""
        if self._exists(_scratch(key)):
            self._files.delete_file(_scratch(key))

    # What searches need

    def note_search(self, name: str, keys: set[str]) -> None:
        """Remember that the search ``name`` needs ``keys``: ``collect`` keeps them."""
        self._write(_noted(name), json.dumps(sorted(keys)).encode())

    def forget_search(self, name: str) -> None:
        """The search ``name`` needs nothing any more."""
        told = [info.path for info in self._list("status") if _run_of(info) == name]
        for path in (_noted(name), *told):
            if self._exists(path):
                self._files.delete_file(path)

    def note_status(self, name: str, text: str) -> None:
        """Replace what is told of how the search ``name`` stands; gives up soon.

        Raises:
            OSError: it cannot be written.
        """
        self._write(f"status/{name}.json", text.encode(), self._aloof())

    def statuses(self) -> dict[str, list[str]]:
        """Search name -> what its drivers, one or on several machines, told last."""
        found: dict[str, list[str]] = {}
        for info in self._list("status"):
            text = self._read(info.path) if info.extension == "json" else None
            if text is not None:
                found.setdefault(_run_of(info), []).append(text.decode())
        return found

    def needed(self) -> dict[str, set[str]]:
        """Search name -> the keys it needs.

        Raises:
            ConfigError: a list is damaged, and what it needs cannot be known.
        """
        found = {}
        for info in self._list("searches"):
            if info.extension != "json" or info.base_name.startswith("."):
                continue
            try:
                keys = set(plain(self._read(info.path, MOST_BYTES) or b"[]"))
                found[info.base_name.removesuffix(".json")] = {str(key) for key in keys}
            except (Unreadable, TypeError):
                message = "is no list of keys; repair it, or delete it if its run may be forgotten"
                raise ConfigError([Problem(f"{shown(self.uri)}/{info.path}", message)]) from None
        return found

    def leftovers(self, before: datetime.datetime) -> list[str]:
        """Files of no artifact: torn writes, damaged copies, superseded payloads, half-done stages.

        Only those written ``before`` a moment: what is being made just now looks the same.
        """
        kept = {f"{_folder(r.key)}/{r.payload.name}" for r in self.records()}
        kept |= {f"{_folder(r.key)}/record.json" for r in self.records()}
        folders = ("artifacts", "scratch", "damaged")
        infos = [info for folder in folders for info in self._list(folder)]
        return [info.path for info in infos if info.path not in kept and info.mtime < before]

    def mark(self, path: str) -> None:
        """Write an empty file, by which others can tell that they see this library."""
        self._write(path, b"")

    def marked(self, path: str) -> bool:
        """Whether a :meth:`mark` is seen from here."""
        return self._exists(path)

    def remove_file(self, path: str) -> None:
        """Delete one of the :meth:`leftovers`, or a :meth:`mark`."""
        self._files.delete_file(path)

    # Bytes

    def _write(self, path: str, data: bytes, files: fs.FileSystem | None = None) -> None:
        """A reader sees the whole file or none: written aside, then moved into place."""
        files = files or self._files
        if not self._inside(path):
            raise OSError(f"{path} leads out of the library by a link: name its target instead")
        folder, _, name = path.rpartition("/")
        aside = path
        if not self._in_one_step:
            aside = f"{folder}/.{name}.part-{uuid.uuid4().hex[:8]}"
            files.create_dir(folder)
        with files.open_output_stream(aside) as stream:
            stream.write(data)
        if not self._in_one_step:
            files.move(aside, path)

    def _aloof(self) -> fs.FileSystem:
        """The same place, where an object store that does not answer is soon given up."""
        system, root = open_place(self.uri, ALOOF) if self._in_one_step else (None, "")
        return fs.SubTreeFileSystem(root, system) if system else self._files

    def _read(self, path: str, most: int | None = None) -> bytes | None:
        """All bytes, or one more than ``most``; none where there is no such file in here."""
        if not self._inside(path):
            return None
        try:
            with self._files.open_input_stream(path) as stream:
                return bytes(stream.read() if most is None else stream.read(most + 1))
        except FileNotFoundError:
            return None

    def _exists(self, path: str) -> bool:
        return bool(self._files.get_file_info(path).type == fs.FileType.File)

    def _list(self, folder: str) -> list[fs.FileInfo]:
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
        found = self._files.get_file_info(selector)
        return [i for i in found if i.type == fs.FileType.File and self._inside(i.path)]

    def _inside(self, path: str) -> bool:
        return self._folder is None or within(self._folder, path)


def pack(tensors: Mapping[str, Tensor]) -> tuple[Payload, bytes]:
    """Tensors as safetensors bytes, and what a record says of them."""
    data = safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    return Payload(name=f"{digest[:32]}.safetensors", sha256=digest, size=len(data)), data


def _run_of(info: fs.FileInfo) -> str:
    """The search whose status a file is."""
    return str(info.base_name.rpartition("@")[0])


def _unpacked(data: bytes) -> dict[str, Tensor] | None:
    """The tensors; none if the bytes are no safetensors, whatever their digest says."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _folder(key: str) -> str:
    return f"artifacts/{key[:2]}/{key}"


def _scratch(key: str) -> str:
    return f"scratch/{word(key)}.safetensors"


def _noted(name: str) -> str:
    return f"searches/{word(name)}.json"


def _unusable(uri: str, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0]
    message = f"the library {shown(uri)} cannot be used: {reason}; {remedy(uri, reason)}"
    return ConfigError([Problem("library", message)])
