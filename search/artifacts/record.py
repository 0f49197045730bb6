"""The record of an artifact: its identity, its parents and its metrics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from stillhouse.search.artifacts.description import (
    AssemblyDescription,
    DataDescription,
    Environment,
    NetworkDescription,
)
from stillhouse.search.artifacts.limits import UnreadableFile, is_key, is_payload, parse_json
from stillhouse.spaces.config.base import Config, fingerprint, setting
from stillhouse.spaces.config.problems import ConfigError


class Payload(Config):
    """The file of an artifact's tensors."""

    name: str = setting(..., "file name beside the record")
    sha256: str = setting(..., "digest of the file's bytes")
    size: int = setting(..., "bytes", ge=0)


class Record(Config):
    """The record of an artifact; it is written last, so that an artifact is complete or absent."""

    key: str = setting(..., "sha256 of the identity")
    name: str = setting(..., "label of the stage in its first run; not part of the key")
    kind: str = setting(..., "kind of stage")
    identity: dict[str, Any] = setting(..., "plain data of the result; its sha256 is the key")
    parents: tuple[str, ...] = setting((), "keys of the parents")
    payload: Payload = setting(..., "the tensors")
    figures: dict[str, float] = setting(..., "final metrics: val_accuracy, parameters, ...")
    curve: tuple[dict[str, float], ...] = setting((), "metrics of each epoch")
    facts: dict[str, Any] = setting(
        ..., "device, versions, git revision, seeds, data digest, labels"
    )
    seconds: float = setting(..., "wall time of the build", ge=0.0)
    made_at: str = setting(..., "UTC, ISO 8601")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of its operation, as far as they decide the key."""
        settings: Mapping[str, Any] = self.identity.get("work") or {}
        return settings

    @property
    def data(self) -> DataDescription:
        """The data that it learnt from."""
        return DataDescription.model_validate(self.facts["data"])

    @property
    def environment(self) -> Environment:
        """The machine and the versions that made it."""
        return Environment.model_validate(self.facts)

    @property
    def network(self) -> NetworkDescription | None:
        """The structure of a changed network; None where it is the named one of ``settings``."""
        description = self.facts.get("assembly")
        return NetworkDescription.model_validate(description) if description else None

    @property
    def assembly(self) -> AssemblyDescription:
        """How it was planned; empty where it is no assembly."""
        return AssemblyDescription.model_validate(self.facts)


class CorruptRecord(ValueError):
    """The text of a record that differs from what was written."""


def dump_record(record: Record) -> bytes:
    """The JSON of a record, with a checksum of its content."""
    record_data = json.loads(json.dumps(record.plain()))
    return _record_json({**record_data, "checksum": _checksum(record_data)}).encode()


def parse_record(text: bytes, key: str, location: str) -> Record:
    """Parse the JSON of the record of ``key``.

    The key of a record without a checksum, from an early version, is compared with its identity.

    Raises:
        CorruptRecord: the text is incomplete, or its checksum, key or payload name is wrong.
        ConfigError: the text is intact, but not in the format of this version.
    """
    try:
        record_data = parse_json(text)
        checksum = record_data.pop("checksum", None)
    except (UnreadableFile, AttributeError, TypeError) as error:
        raise CorruptRecord(str(error)) from None
    if checksum is not None and checksum != _checksum(record_data):
        raise CorruptRecord("its checksum differs")
    try:
        record = Record.parse(record_data, location)
    except ConfigError as error:
        if checksum is None:
            raise CorruptRecord(str(error)) from None
        raise
    if record.key != key or (checksum is None and fingerprint(record.identity) != key):
        raise CorruptRecord("it is of another key")
    if not (all(map(is_key, (key, *record.parents))) and is_payload(record.payload.name)):
        raise CorruptRecord("it names what can be in no library")
    return record


def _checksum(record_data: dict[str, Any]) -> str:
    return hashlib.sha256(_record_json(record_data).encode()).hexdigest()


def _record_json(record_data: dict[str, Any]) -> str:
    return json.dumps(record_data, indent=1, sort_keys=True)
