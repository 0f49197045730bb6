"""The library: publish, open, verify and collect artifacts.

Layout below the root::

    artifacts/<2 of key>/<key>/<digest>.safetensors    the tensors, named by their content
    artifacts/<2 of key>/<key>/record.json             written last: no record, no artifact
    scratch/<key>.safetensors                          a half-done stage, last saved epoch
    damaged/<key>-<n>/                                 set aside by a failed digest
    searches/<run id>.json                             the keys a search needs, for ``collect``
    status/<run id>@<host>.json                        how a search stands
    (search/monitoring/publisher.py)

Nothing is ever unpickled, and no name and no link leads out of the root. Two publishers of one key
are harmless: each payload has its own name and the record that lands last names one of them.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import safetensors.torch
from pyarrow import fs
from torch import Tensor

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.files import Files
from stillhouse.search.artifacts.limits import (
    FOLDERS,
    MOST_BYTES,
    Unreadable,
    is_key,
    is_own,
    is_word,
    word,
)
from stillhouse.search.artifacts.need import Need, read_need, write_need
from stillhouse.search.artifacts.places import absolute
from stillhouse.search.artifacts.record import (
    DamagedRecord,
    Payload,
    Record,
    read_record,
    write_record,
)
from stillhouse.search.core.addresses import shown
from stillhouse.spaces.config.problems import ConfigError, Problem


class Damaged(RuntimeError):
    """A payload or a record that is not what was published; the artifact has been set aside."""


class Library:
    """A library at ``uri``: a folder, or what :mod:`stillhouse.search.artifacts.places` opens.

    Args:
        uri: its address.
        found: a folder must be there already. Workers ask for that: one on a machine that does
            not see the driver's folder would else fill another of the same name.

    Raises:
        ConfigError: the place cannot be reached.
        Lost: it fails later (no room, no answer, no rights); so does every method.
    """

    def __init__(self, uri: str, found: bool = False) -> None:
        self.uri = absolute(uri)
        self._files = Files(self.uri, found)
        self._records: dict[str, Record] = {}

    def check_writable(self) -> None:
        """Write and remove a small file; seconds where an object store does not answer.

        Raises:
            ConfigError: that failed.
        """
        self._files.check_writable()

    def place_of(self, folder: str) -> tuple[fs.FileSystem, str]:
        """The file system, and the path of a folder in here, for who keeps files of its own."""
        system = self._files.system
        return system.base_fs, f"{system.base_path}{folder}"

    @property
    def in_one_step(self) -> bool:
        """Whether it lies in an object store rather than a folder."""
        return self._files.in_one_step

    @property
    def begun(self) -> bool:
        """Whether anything of a library is there; a disk that is not mounted has nothing."""
        return self._files.holds_any(FOLDERS)

    # Artifacts

    def has(self, key: str) -> bool:
        """Whether a whole artifact is there."""
        return self.record(key) is not None

    def record(self, key: str) -> Record | None:
        """The record of ``key``; none if there is no whole artifact.

        Raises:
            ConfigError: the record has another form than this version writes.
        """
        try:
            return self._whole_record(key)
        except DamagedRecord:  # damaged like a payload
            self.set_aside(key)
            return None

    def _whole_record(self, key: str) -> Record | None:
        """The record of ``key``; raises ``DamagedRecord`` where it is not what was written."""
        if key not in self._records:
            place = f"{_folder(key)}/record.json"
            text = self._files.read(place, MOST_BYTES) if is_key(key) else None
            if text is None:
                return None
            self._records[key] = read_record(text, key, f"{shown(self.uri)}/{place}")
        return self._records[key]

    def publish(self, record: Record, data: bytes) -> None:
        """Keep the bytes that ``record.payload`` describes, and then the record."""
        payload = f"{_folder(record.key)}/{record.payload.name}"
        self._files.write(payload, data)
        self._files.write(f"{_folder(record.key)}/record.json", write_record(record))
        if not self._files.exists(payload):
            self._files.write(payload, data)  # a collector took it for the old one's
        self._records[record.key] = record
        self.clear_scratch(record.key)

    def open(self, key: str) -> Artifact:
        """The artifact, its bytes checked against the record's digest.

        Raises:
            KeyError: there is none.
            Damaged: the bytes, or the record's, are not those that were published; the artifact
                is set aside.
            ConfigError: the record has another form than this version writes.
        """
        try:
            record = self._whole_record(key)
        except DamagedRecord as error:
            self.set_aside(key)
            message = f"the record of artifact {key[:12]} is damaged and was set aside: {error}"
            raise Damaged(message) from None
        if record is None:
            raise KeyError(key)
        data = self._payload(record)
        if data is None:  # another may have published it anew since this record was read
            self._records.pop(key)
            again = self.record(key)
            data = self._payload(again) if again else None
            record = again or record
        tensors = None if data is None else _unpacked(data)
        if tensors is None:
            self.set_aside(key)
            raise Damaged(f"artifact {key[:12]} ({record.name}) is damaged and was set aside")
        return Artifact(record, tensors)

    def _payload(self, record: Record) -> bytes | None:
        """The bytes that the record describes, if they are there."""
        place = f"{_folder(record.key)}/{record.payload.name}"
        data = self._files.read(place, record.payload.size)
        whole = data is not None and hashlib.sha256(data).hexdigest() == record.payload.sha256
        return data if whole else None

    def set_aside(self, key: str) -> None:
        """Move a damaged artifact out of the way, so that it is made again."""
        self._records.pop(key, None)
        aside = f"damaged/{key}-{uuid.uuid4().hex[:8]}"
        for path in self._whole_files(key):
            self._files.move(path, f"{aside}/{path.rpartition('/')[2]}")

    def keys(self) -> Iterator[str]:
        """The keys of all whole artifacts."""
        for info in self._files.list("artifacts"):
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
            found = "the record of the one that did was damaged" if len(matches) == 1 else found
            message = f"needs one artifact whose key begins with {beginning!r}; {found}"
            raise ConfigError([Problem(shown(self.uri), message)])
        return record

    def remove(self, key: str) -> None:
        """Delete an artifact for good; the record goes first."""
        self._records.pop(key, None)
        for path in self._whole_files(key):
            self._files.delete(path)

    def _whole_files(self, key: str) -> list[str]:
        """An artifact's files, the record first, so that nobody finds it without its payload.

        One by one, as object stores do not move folders, and without what is being written just
        now: a publisher is to find it where it put it.
        """
        infos = [i for i in self._files.list(_folder(key)) if not i.base_name.startswith(".")]
        return [i.path for i in sorted(infos, key=lambda i: i.base_name != "record.json")]

    # Half-done stages

    def save_scratch(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Replace the saved state of a half-done stage."""
        _, data = pack(tensors)
        self._files.write(_scratch(key), hashlib.sha256(data).digest() + data)

    def load_scratch(self, key: str) -> dict[str, Tensor] | None:
        """The saved state, or none; a torn file counts as none."""
        data = self._files.read(_scratch(key))
        if data is None or hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return _unpacked(data[32:])

    def clear_scratch(self, key: str) -> None:
        """Forget the saved state, if there is any."""
        self._files.delete(_scratch(key))

    # What searches need

    def note_search(self, need: Need, soon: bool = False) -> None:
        """Replace the note of what a run needs: ``collect`` keeps it. ``soon`` gives up soon."""
        self._files.write(_noted(need.run.id), write_need(need), soon)

    def need(self, run_id: str) -> Need | None:
        """What the run with this id has noted; none if it has no note.

        Raises:
            Unreadable: its note is damaged.
        """
        text = self._files.read(_noted(run_id), MOST_BYTES)
        return None if text is None else read_need(run_id, text)

    def needs(self) -> dict[str, Need]:
        """Run id -> what the run needs. Files that are no notes are passed over.

        Raises:
            ConfigError: a note is damaged, and what it needs cannot be known.
        """
        found = {}
        for info in self._files.list("searches"):
            run_id = info.base_name.removesuffix(".json")
            if not is_word(run_id) or info.path != _noted(run_id):
                continue
            try:
                need = self.need(run_id)
            except Unreadable:
                message = "is no list of keys; repair it, or delete it if its run may be forgotten"
                raise ConfigError([Problem(f"{shown(self.uri)}/{info.path}", message)]) from None
            if need is not None:
                found[run_id] = need
        return found

    def forget_search(self, run_id: str) -> None:
        """The run with this id needs nothing any more."""
        told = [info.path for info in self._files.list("status") if _run_of(info) == run_id]
        for path in (_noted(run_id), *told):
            self._files.delete(path)

    def note_status(self, run_id: str, host: str, text: str) -> None:
        """Replace what a driver on ``host`` tells of how a run stands; gives up soon.

        Raises:
            Lost: it cannot be written.
        """
        place = f"status/{word(run_id)}@{re.sub('[^A-Za-z0-9.-]', '_', host)}.json"
        self._files.write(place, text.encode(), soon=True)

    def statuses(self) -> dict[str, list[str]]:
        """Run id -> what its drivers, one or on several machines, told last.

        Files that are no statuses are passed over.
        """
        found: dict[str, list[str]] = {}
        for info in self._files.list("status"):
            run_id = _run_of(info)
            text = self._files.read(info.path, MOST_BYTES) if is_word(run_id) else None
            if text is not None:
                found.setdefault(run_id, []).append(text.decode(errors="replace"))
        return found

    def leftovers(self, before: datetime.datetime) -> list[str]:
        """Files of no artifact: torn writes, damaged copies, superseded payloads, half-done stages.

        Only those written ``before`` a moment: what is being made just now looks the same. Files
        of other names than a library gives are nobody's leftovers.
        """
        records = self.records()
        kept = {f"{_folder(r.key)}/{r.payload.name}" for r in records}
        kept |= {f"{_folder(r.key)}/record.json" for r in records}
        infos = [info for folder in FOLDERS[:3] for info in self._files.list(folder)]
        own = [info for info in infos if is_own(info.path) and info.path not in kept]
        return [info.path for info in own if info.mtime < before]

    def mark(self, path: str) -> None:
        """Write an empty file, by which others can tell that they see this library."""
        self._files.write(path, b"")

    def marked(self, path: str) -> bool:
        """Whether a :meth:`mark` is seen from here."""
        return self._files.exists(path)

    def remove_file(self, path: str, before: datetime.datetime | None = None) -> None:
        """Delete a :meth:`mark`, or one of the :meth:`leftovers` if it is still one."""
        self._files.delete(path, before)


def pack(tensors: Mapping[str, Tensor]) -> tuple[Payload, bytes]:
    """Tensors as safetensors bytes, and what a record says of them."""
    data = safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in tensors.items()})
    digest = hashlib.sha256(data).hexdigest()
    return Payload(name=f"{digest[:32]}.safetensors", sha256=digest, size=len(data)), data


def _run_of(info: fs.FileInfo) -> str:
    """The id of the run whose status a file is; empty where it is none."""
    return str(info.base_name.rpartition("@")[0]) if info.extension == "json" else ""


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


def _noted(run_id: str) -> str:
    return f"searches/{word(run_id)}.json"
