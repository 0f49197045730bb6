"""The record beside each artifact: what it is, what it was made from, how it went."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stillhouse.search.artifacts.limits import Unreadable, is_key, is_payload, plain
from stillhouse.spaces.config.base import Config, fingerprint, knob
from stillhouse.spaces.config.problems import ConfigError


class Payload(Config):
    """The file that holds an artifact's tensors."""

    name: str = knob(..., "file name beside the record")
    sha256: str = knob(..., "digest of the file's bytes")
    size: int = knob(..., "bytes", ge=0)


class Record(Config):
    """Written last, so that an artifact is whole or absent."""

    key: str = knob(..., "sha256 of what decides the result")
    name: str = knob(..., "what the stage was called where it was first made; not part of the key")
    kind: str = knob(..., "kind of stage")
    identity: dict[str, Any] = knob(..., "the plain data whose sha256 is the key")
    parents: tuple[str, ...] = knob((), "keys of the artifacts it was made from")
    payload: Payload = knob(..., "the tensors")
    figures: dict[str, float] = knob(..., "final measures: val_accuracy, parameters, ...")
    curve: tuple[dict[str, float], ...] = knob((), "one report an epoch")
    facts: dict[str, Any] = knob(..., "device, versions, git revision, seeds, data digest, labels")
    seconds: float = knob(..., "wall time it took to make", ge=0.0)
    made_at: str = knob(..., "UTC, ISO 8601")


class DamagedRecord(ValueError):
    """A record's text that does not say what was written."""


def write_record(record: Record) -> bytes:
    """The text of a record, with a checksum over all it says."""
    told = json.loads(json.dumps(record.plain()))
    return _text({**told, "checksum": _checksum(told)}).encode()


def read_record(text: bytes, key: str, place: str) -> Record:
    """The record of ``key`` that a file's bytes say.

    Records of before there were checksums are held against their key: it is the fingerprint of
    what decides the result.

    Raises:
        DamagedRecord: a torn text, another checksum, another key, a payload elsewhere.
        ConfigError: it is whole, and has another form than this version writes.
    """
    try:
        told = plain(text)
        checksum = told.pop("checksum", None)
    except (Unreadable, AttributeError, TypeError) as error:
        raise DamagedRecord(str(error)) from None
    if checksum is not None and checksum != _checksum(told):
        raise DamagedRecord("its checksum differs")
    try:
        record = Record.parse(told, place)
    except ConfigError as error:
        if checksum is None:
            raise DamagedRecord(str(error)) from None
        raise
    if record.key != key or (checksum is None and fingerprint(record.identity) != key):
        raise DamagedRecord("it is of another key")
    if not (all(map(is_key, (key, *record.parents))) and is_payload(record.payload.name)):
        raise DamagedRecord("it names what can be in no library")
    return record


def _checksum(told: dict[str, Any]) -> str:
    return hashlib.sha256(_text(told).encode()).hexdigest()


def _text(told: dict[str, Any]) -> str:
    return json.dumps(told, indent=1, sort_keys=True)
