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
from stillhouse.search.artifacts.files import FileStore
from stillhouse.search.artifacts.limits import (
    LIBRARY_FOLDERS,
    MAX_METADATA_BYTES,
    UnreadableFile,
    is_key,
    is_library_file,
    is_safe_name,
    require_safe_name,
)
from stillhouse.search.artifacts.need import RunReferences, dump_references, parse_references
from stillhouse.search.artifacts.places import absolute_address
from stillhouse.search.artifacts.record import (
    CorruptRecord,
    Payload,
    Record,
    dump_record,
    parse_record,
)
from stillhouse.search.core.addresses import for_display
from stillhouse.spaces.config.problems import ConfigError, Problem


class CorruptArtifact(RuntimeError):
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

    def __init__(self, uri: str, must_exist: bool = False) -> None:
        self.uri = absolute_address(uri)
        self._files = FileStore(self.uri, must_exist)
        self._records: dict[str, Record] = {}

    def check_writable(self) -> None:
        """Write and remove a small file; seconds where an object store does not answer.

        Raises:
            ConfigError: that failed.
        """
        self._files.check_writable()

    def filesystem_at(self, folder: str) -> tuple[fs.FileSystem, str]:
        """The file system, and the path of a folder in here, for who keeps files of its own."""
        filesystem = self._files.filesystem
        return filesystem.base_fs, f"{filesystem.base_path}{folder}"

    @property
    def is_object_store(self) -> bool:
        """Whether it lies in an object store rather than a folder."""
        return self._files.is_object_store

    @property
    def is_initialised(self) -> bool:
        """Whether anything of a library is there; a disk that is not mounted has nothing."""
        return self._files.has_any_folder(LIBRARY_FOLDERS)

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
            return self._load_record(key)
        except CorruptRecord:  # damaged like a payload
            self.quarantine(key)
            return None

    def _load_record(self, key: str) -> Record | None:
        """The record of ``key``; raises ``CorruptRecord`` where it is not what was written."""
        if key not in self._records:
            record_path = f"{_artifact_folder(key)}/record.json"
            text = self._files.read(record_path, MAX_METADATA_BYTES) if is_key(key) else None
            if text is None:
                return None
            self._records[key] = parse_record(text, key, f"{for_display(self.uri)}/{record_path}")
        return self._records[key]

    def publish(self, record: Record, data: bytes) -> None:
        """Keep the bytes that ``record.payload`` describes, and then the record."""
        payload_path = f"{_artifact_folder(record.key)}/{record.payload.name}"
        self._files.write(payload_path, data)
        self._files.write(f"{_artifact_folder(record.key)}/record.json", dump_record(record))
        if not self._files.exists(payload_path):
            self._files.write(payload_path, data)  # a collector took it for the old one's
        self._records[record.key] = record
        self.clear_scratch(record.key)

    def open_artifact(self, key: str) -> Artifact:
        """The artifact, its bytes checked against the record's digest.

        Raises:
            KeyError: there is none.
            Damaged: the bytes, or the record's, are not those that were published; the artifact
                is set aside.
            ConfigError: the record has another form than this version writes.
        """
        try:
            record = self._load_record(key)
        except CorruptRecord as error:
            self.quarantine(key)
            message = f"the record of artifact {key[:12]} is damaged and was set aside: {error}"
            raise CorruptArtifact(message) from None
        if record is None:
            raise KeyError(key)
        data = self._read_payload(record)
        if data is None:  # another may have published it anew since this record was read
            self._records.pop(key)
            newer_record = self.record(key)
            data = self._read_payload(newer_record) if newer_record else None
            record = newer_record or record
        tensors = None if data is None else _deserialise_tensors(data)
        if tensors is None:
            self.quarantine(key)
            raise CorruptArtifact(
                f"artifact {key[:12]} ({record.name}) is damaged and was set aside"
            )
        return Artifact(record, tensors)

    def _read_payload(self, record: Record) -> bytes | None:
        """The bytes that the record describes, if they are there."""
        payload_path = f"{_artifact_folder(record.key)}/{record.payload.name}"
        data = self._files.read(payload_path, record.payload.size)
        is_intact = data is not None and hashlib.sha256(data).hexdigest() == record.payload.sha256
        return data if is_intact else None

    def quarantine(self, key: str) -> None:
        """Move a damaged artifact out of the way, so that it is made again."""
        self._records.pop(key, None)
        quarantine_folder = f"damaged/{key}-{uuid.uuid4().hex[:8]}"
        for path in self._artifact_files(key):
            self._files.move(path, f"{quarantine_folder}/{path.rpartition('/')[2]}")

    def keys(self) -> Iterator[str]:
        """The keys of all whole artifacts."""
        for info in self._files.list_files("artifacts"):
            key = info.path.split("/")[-2]
            if is_key(key) and info.path == f"{_artifact_folder(key)}/record.json":
                yield key

    def records(self) -> list[Record]:
        """All records, newest first."""
        with ThreadPoolExecutor(16) as executor:
            records = [record for record in executor.map(self.record, self.keys()) if record]
        return sorted(records, key=lambda record: record.made_at, reverse=True)

    def find_by_prefix(self, key_prefix: str) -> Record:
        """The one record whose key begins with ``key_prefix``.

        Raises:
            ConfigError: none or several do.
        """
        matches = [key for key in self.keys() if key.startswith(key_prefix)]
        record = self.record(matches[0]) if len(matches) == 1 else None
        if record is None:
            outcome = f"{len(matches)} do" if matches else "none does"
            outcome = "the record of the one that did was damaged" if len(matches) == 1 else outcome
            message = f"needs one artifact whose key begins with {key_prefix!r}; {outcome}"
            raise ConfigError([Problem(for_display(self.uri), message)])
        return record

    def remove_artifact(self, key: str) -> None:
        """Delete an artifact for good; the record goes first."""
        self._records.pop(key, None)
        for path in self._artifact_files(key):
            self._files.delete(path)

    def _artifact_files(self, key: str) -> list[str]:
        """An artifact's files, the record first, so that nobody finds it without its payload.

        One by one, as object stores do not move folders, and without what is being written just
        now: a publisher is to find it where it put it.
        """
        infos = [
            info
            for info in self._files.list_files(_artifact_folder(key))
            if not info.base_name.startswith(".")
        ]
        return [
            info.path for info in sorted(infos, key=lambda info: info.base_name != "record.json")
        ]

    # Half-done stages

    def save_scratch(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Replace the saved state of a half-done stage."""
        _, data = serialise_tensors(tensors)
        self._files.write(_scratch_path(key), hashlib.sha256(data).digest() + data)

    def load_scratch(self, key: str) -> dict[str, Tensor] | None:
        """The saved state, or none; a torn file counts as none."""
        data = self._files.read(_scratch_path(key))
        if data is None or hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return _deserialise_tensors(data[32:])

    def clear_scratch(self, key: str) -> None:
        """Forget the saved state, if there is any."""
        self._files.delete(_scratch_path(key))

    # What searches need

    def write_references(self, references: RunReferences, fail_fast: bool = False) -> None:
        """Replace the note of what a run needs: ``collect`` keeps it. ``fail_fast`` gives up
        soon."""
        self._files.write(
            _references_path(references.run.id), dump_references(references), fail_fast
        )

    def references_of(self, run_id: str) -> RunReferences | None:
        """What the run with this id has noted; none if it has no note.

        Raises:
            Unreadable: its note is damaged.
        """
        text = self._files.read(_references_path(run_id), MAX_METADATA_BYTES)
        return None if text is None else parse_references(run_id, text)

    def all_references(self) -> dict[str, RunReferences]:
        """Run id -> what the run needs. Files that are no notes are passed over.

        Raises:
            ConfigError: a note is damaged, and what it needs cannot be known.
        """
        by_run_id = {}
        for info in self._files.list_files("searches"):
            run_id = info.base_name.removesuffix(".json")
            if not is_safe_name(run_id) or info.path != _references_path(run_id):
                continue
            try:
                references = self.references_of(run_id)
            except UnreadableFile:
                message = "is no list of keys; repair it, or delete it if its run may be forgotten"
                raise ConfigError(
                    [Problem(f"{for_display(self.uri)}/{info.path}", message)]
                ) from None
            if references is not None:
                by_run_id[run_id] = references
        return by_run_id

    def forget_run(self, run_id: str) -> None:
        """The run with this id needs nothing any more."""
        status_paths = [
            info.path
            for info in self._files.list_files("status")
            if _run_id_of_status(info) == run_id
        ]
        for path in (_references_path(run_id), *status_paths):
            self._files.delete(path)

    def write_status(self, run_id: str, host: str, text: str) -> None:
        """Replace what a driver on ``host`` tells of how a run stands; gives up soon.

        Raises:
            Lost: it cannot be written.
        """
        status_path = (
            f"status/{require_safe_name(run_id)}@{re.sub('[^A-Za-z0-9.-]', '_', host)}.json"
        )
        self._files.write(status_path, text.encode(), fail_fast=True)

    def statuses(self) -> dict[str, list[str]]:
        """Run id -> what its drivers, one or on several machines, told last.

        Files that are no statuses are passed over.
        """
        texts_by_run_id: dict[str, list[str]] = {}
        for info in self._files.list_files("status"):
            run_id = _run_id_of_status(info)
            text = self._files.read(info.path, MAX_METADATA_BYTES) if is_safe_name(run_id) else None
            if text is not None:
                texts_by_run_id.setdefault(run_id, []).append(text.decode(errors="replace"))
        return texts_by_run_id

    def orphaned_files(self, cutoff: datetime.datetime) -> list[str]:
        """Files of no artifact: torn writes, damaged copies, superseded payloads, half-done stages.

        Only those written ``cutoff`` a moment: what is being made just now looks the same. Files
        of other names than a library gives are nobody's leftovers.
        """
        records = self.records()
        referenced_paths = {
            f"{_artifact_folder(record.key)}/{record.payload.name}" for record in records
        }
        referenced_paths |= {f"{_artifact_folder(record.key)}/record.json" for record in records}
        infos = [info for folder in LIBRARY_FOLDERS[:3] for info in self._files.list_files(folder)]
        orphans = [
            info
            for info in infos
            if is_library_file(info.path) and info.path not in referenced_paths
        ]
        return [info.path for info in orphans if info.mtime < cutoff]

    def write_marker(self, path: str) -> None:
        """Write an empty file, by which others can tell that they see this library."""
        self._files.write(path, b"")

    def has_marker(self, path: str) -> bool:
        """Whether a :meth:`write_marker` is seen from here."""
        return self._files.exists(path)

    def remove_file(self, path: str, written_before: datetime.datetime | None = None) -> None:
        """Delete a :meth:`write_marker`, or one of the :meth:`orphaned_files` if it is still
        one."""
        self._files.delete(path, written_before)


def serialise_tensors(tensors: Mapping[str, Tensor]) -> tuple[Payload, bytes]:
    """Tensors as safetensors bytes, and what a record says of them."""
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    digest = hashlib.sha256(data).hexdigest()
    return Payload(name=f"{digest[:32]}.safetensors", sha256=digest, size=len(data)), data


def _run_id_of_status(info: fs.FileInfo) -> str:
    """The id of the run whose status a file is; empty where it is none."""
    return str(info.base_name.rpartition("@")[0]) if info.extension == "json" else ""


def _deserialise_tensors(data: bytes) -> dict[str, Tensor] | None:
    """The tensors; none if the bytes are no safetensors, whatever their digest says."""
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _artifact_folder(key: str) -> str:
    return f"artifacts/{key[:2]}/{key}"


def _scratch_path(key: str) -> str:
    return f"scratch/{require_safe_name(key)}.safetensors"


def _references_path(run_id: str) -> str:
    return f"searches/{require_safe_name(run_id)}.json"
