"""The record beside each artifact: what it is, what it was made from, how it went."""

from __future__ import annotations

from typing import Any

from spaces.config import Config, knob


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
