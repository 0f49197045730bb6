"""The library: publish, open, verify and collect artifacts.

Layout below the root::

    artifacts/<2 of key>/<key>/<digest>.safetensors    the tensors, named by their content
    artifacts/<2 of key>/<key>/record.json             written last: no record, no artifact
    scratch/<key>.safetensors                          the checkpoint of an unfinished stage
    damaged/<key>-<n>/                                 quarantine of corrupt artifacts
    searches/<run id>.json                             the keys a run needs, for ``collect``
    status/<run id>@<host>.json                        the status of a run

The library never unpickles data, and no name or link leads out of the root. Two processes may
publish the same key: each payload has its own name, and the last record refers to one of them.
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
    """A payload or a record that differs from what was published; it is now in quarantine."""


class Library:
    """The library at an address.

    Args:
        uri: see ``stillhouse.search.artifacts.places``.
        must_exist: do not create the folder. Workers set this: on a machine that does not share the
            driver's folder, they would otherwise fill another folder of the same name.

    Attributes:
        files: the files below the address.

    Raises:
        ConfigError: the address cannot be opened.
        StorageUnavailable: raised by every method if the storage fails.
    """

    def __init__(self, uri: str, must_exist: bool = False) -> None:
        self.uri = absolute_address(uri)
        self.files = FileStore(self.uri, must_exist)
        self._records: dict[str, Record] = {}

    def check_writable(self) -> None:
        """Write and delete a small file; gives up soon if an object store does not answer.

        Raises:
            ConfigError: the file could not be written or deleted.
        """
        self.files.check_writable()

    def filesystem_at(self, folder: str) -> tuple[fs.FileSystem, str]:
        """The file system, and the path of a folder in it for other files of a run."""
        filesystem = self.files.filesystem
        return filesystem.base_fs, f"{filesystem.base_path}{folder}"

    @property
    def is_object_store(self) -> bool:
        """Whether the library is in an object store, not in a folder."""
        return self.files.is_object_store

    @property
    def is_initialised(self) -> bool:
        """Whether the library contains any folder; a disk that is not mounted has none."""
        return self.files.has_any_folder(LIBRARY_FOLDERS)

    # Artifacts

    def has(self, key: str) -> bool:
        """Whether the library has the artifact."""
        return self.record(key) is not None

    def record(self, key: str) -> Record | None:
        """The record of ``key``, or None.

        Raises:
            ConfigError: the record is not in the format of this version.
        """
        try:
            return self._load_record(key)
        except CorruptRecord:
            self.quarantine(key)
            return None

    def _load_record(self, key: str) -> Record | None:
        """The record of ``key``; raises ``CorruptRecord`` if it differs from what was written."""
        if key not in self._records:
            record_path = f"{_artifact_folder(key)}/record.json"
            text = self.files.read(record_path, MAX_METADATA_BYTES) if is_key(key) else None
            if text is None:
                return None
            self._records[key] = parse_record(text, key, f"{for_display(self.uri)}/{record_path}")
        return self._records[key]

    def publish(self, record: Record, data: bytes) -> None:
        """Write the payload, and then the record."""
        payload_path = f"{_artifact_folder(record.key)}/{record.payload.name}"
        self.files.write(payload_path, data)
        self.files.write(f"{_artifact_folder(record.key)}/record.json", dump_record(record))
        if not self.files.exists(payload_path):
            self.files.write(payload_path, data)  # a collector has deleted it as superseded
        self._records[record.key] = record
        self.clear_scratch(record.key)

    def open_artifact(self, key: str) -> Artifact:
        """The artifact; its payload is verified with the record's digest.

        Raises:
            KeyError: there is no such artifact.
            CorruptArtifact: the payload or the record is damaged; it is now in quarantine.
            ConfigError: the record is not in the format of this version.
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
        if data is None:  # another process may have published it again since the record was read
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
        """The payload; None if it is missing or damaged."""
        payload_path = f"{_artifact_folder(record.key)}/{record.payload.name}"
        data = self.files.read(payload_path, record.payload.size)
        is_intact = data is not None and hashlib.sha256(data).hexdigest() == record.payload.sha256
        return data if is_intact else None

    def quarantine(self, key: str) -> None:
        """Move a damaged artifact to the quarantine, so that it is built again."""
        self._records.pop(key, None)
        quarantine_folder = f"damaged/{key}-{uuid.uuid4().hex[:8]}"
        for path in self._artifact_files(key):
            self.files.move(path, f"{quarantine_folder}/{path.rpartition('/')[2]}")

    def keys(self) -> Iterator[str]:
        """The keys of all artifacts."""
        for info in self.files.list_files("artifacts"):
            key = info.path.split("/")[-2]
            if is_key(key) and info.path == f"{_artifact_folder(key)}/record.json":
                yield key

    def records(self) -> list[Record]:
        """All records, newest first."""
        with ThreadPoolExecutor(16) as executor:
            records = [record for record in executor.map(self.record, self.keys()) if record]
        return sorted(records, key=lambda record: record.made_at, reverse=True)

    def find_by_prefix(self, key_prefix: str) -> Record:
        """The only record whose key begins with ``key_prefix``.

        Raises:
            ConfigError: no key or several keys begin with it.
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
        """Delete an artifact, the record first."""
        self._records.pop(key, None)
        for path in self._artifact_files(key):
            self.files.delete(path)

    def _artifact_files(self, key: str) -> list[str]:
        """The paths of an artifact's files, the record first: a record must have its payload.

        Files that a publisher is writing are left out. The files are moved and deleted one by one,
        as object stores cannot move folders.
        """
        infos = self.files.list_files(_artifact_folder(key))
        infos.sort(key=lambda info: info.base_name != "record.json")
        return [info.path for info in infos if not info.base_name.startswith(".")]

    # Checkpoints of unfinished stages

    def save_scratch(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write or replace a checkpoint."""
        _, data = serialise_tensors(tensors)
        self.files.write(_scratch_path(key), hashlib.sha256(data).digest() + data)

    def load_scratch(self, key: str) -> dict[str, Tensor] | None:
        """The checkpoint, or None if it is missing or damaged."""
        data = self.files.read(_scratch_path(key))
        if data is None or hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        return _deserialise_tensors(data[32:])

    def clear_scratch(self, key: str) -> None:
        """Delete the checkpoint, if there is one."""
        self.files.delete(_scratch_path(key))

    # The references of runs

    def write_references(self, references: RunReferences, fail_fast: bool = False) -> None:
        """Write or replace the keys that a run needs; ``collect`` keeps these artifacts."""
        path = _references_path(references.run.id)
        self.files.write(path, dump_references(references), fail_fast)

    def references_of(self, run_id: str) -> RunReferences | None:
        """The references of a run, or None if it has written none.

        Raises:
            UnreadableFile: the file is damaged.
        """
        text = self.files.read(_references_path(run_id), MAX_METADATA_BYTES)
        return None if text is None else parse_references(run_id, text)

    def all_references(self) -> dict[str, RunReferences]:
        """Run id -> references of the run; skips files with other names.

        Raises:
            ConfigError: a file is damaged, so that its keys are unknown.
        """
        by_run_id = {}
        for info in self.files.list_files("searches"):
            run_id = info.base_name.removesuffix(".json")
            if not is_safe_name(run_id) or info.path != _references_path(run_id):
                continue
            try:
                references = self.references_of(run_id)
            except UnreadableFile:
                message = "is no list of keys; repair it, or delete it if its run may be forgotten"
                path = f"{for_display(self.uri)}/{info.path}"
                raise ConfigError([Problem(path, message)]) from None
            if references is not None:
                by_run_id[run_id] = references
        return by_run_id

    def forget_run(self, run_id: str) -> None:
        """Delete the references and the statuses of a run."""
        self.files.delete(_references_path(run_id))
        for info in self.files.list_files("status"):
            if _run_id_of_status(info) == run_id:
                self.files.delete(info.path)

    def write_status(self, run_id: str, host: str, text: str) -> None:
        """Write or replace the status of a run by its driver on ``host``; gives up soon."""
        safe_host = re.sub("[^A-Za-z0-9.-]", "_", host)
        path = f"status/{require_safe_name(run_id)}@{safe_host}.json"
        self.files.write(path, text.encode(), fail_fast=True)

    def statuses(self) -> dict[str, list[str]]:
        """Run id -> the newest status of each of its drivers; skips files with other names."""
        texts_by_run_id: dict[str, list[str]] = {}
        for info in self.files.list_files("status"):
            run_id = _run_id_of_status(info)
            text = self.files.read(info.path, MAX_METADATA_BYTES) if is_safe_name(run_id) else None
            if text is not None:
                texts_by_run_id.setdefault(run_id, []).append(text.decode(errors="replace"))
        return texts_by_run_id

    def orphaned_files(self, cutoff: datetime.datetime) -> list[str]:
        """Paths of incomplete files, damaged copies, superseded payloads and checkpoints.

        Only files older than ``cutoff``: files in progress look the same. Files with names that no
        library gives are left out.
        """
        referenced_paths = {
            f"{_artifact_folder(record.key)}/{name}"
            for record in self.records()
            for name in (record.payload.name, "record.json")
        }
        infos = [info for folder in LIBRARY_FOLDERS[:3] for info in self.files.list_files(folder)]
        return [
            info.path
            for info in infos
            if is_library_file(info.path)
            and info.path not in referenced_paths
            and info.mtime < cutoff
        ]

    def write_marker(self, path: str) -> None:
        """Write an empty file, so that other machines can check that they see this library."""
        self.files.write(path, b"")

    def has_marker(self, path: str) -> bool:
        """Whether this machine sees a file of ``write_marker``."""
        return self.files.exists(path)

    def remove_file(self, path: str, written_before: datetime.datetime | None = None) -> None:
        """Delete a marker, or an orphaned file unless it was written after ``written_before``."""
        self.files.delete(path, written_before)


def serialise_tensors(tensors: Mapping[str, Tensor]) -> tuple[Payload, bytes]:
    """The payload of tensors: its description for the record, and its bytes."""
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    digest = hashlib.sha256(data).hexdigest()
    return Payload(name=f"{digest[:32]}.safetensors", sha256=digest, size=len(data)), data


def _run_id_of_status(info: fs.FileInfo) -> str:
    """The id of the run in the name of a status file; empty for other files."""
    return str(info.base_name.rpartition("@")[0]) if info.extension == "json" else ""


def _deserialise_tensors(data: bytes) -> dict[str, Tensor] | None:
    """The tensors, or None if the bytes are not in the format of safetensors."""
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
