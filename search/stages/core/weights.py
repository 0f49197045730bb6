"""Weights: a file of published weights, as an entry of an experiment names it."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import model_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.spaces.config.base import Config, canonical_json, knob
from stillhouse.spaces.config.normalisation import normalisation_fault
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Shape
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.weights import fit, read_state


class Weights(Config):
    """Published weights: a local safetensors file or state dict, and the inputs they expect."""

    path: str = knob(..., "file with the tensors")
    mean: tuple[float, ...] | None = knob(None, "per-channel mean of inputs in 0..1")
    std: tuple[float, ...] | None = knob(None, "per-channel standard deviation")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("needs mean and std, or neither")
        if self.mean is None or self.std is None:
            return self
        if wrong := normalisation_fault(self.mean, self.std):
            raise ValueError(wrong)
        return self

    def require_fit(self, network: NetworkSpec, data: DataConfig) -> None:
        """Read the file and hold its tensors against a network; seconds for a large one, once.

        Raises:
            ConfigError: it cannot be read, does not fit the network, or normalises images of
                another number of channels.
        """
        about = facts(data)
        channels = about.shape[0]
        if self.mean and self.std and (wrong := normalisation_fault(self.mean, self.std, channels)):
            raise ConfigError([Problem("weights.mean", wrong)])
        told = canonical_json(network.plain())
        if wrong := _misfit(self._file(), told, tuple(about.shape), about.classes):
            raise ConfigError([Problem("weights.path", wrong)])

    def from_anywhere(self) -> Weights:
        """With an absolute path: workers have working directories of their own."""
        absolute = str(Path(self.path).expanduser().absolute())
        return self.model_copy(update={"path": absolute})

    def digest(self) -> str:
        """sha256 of the file; read once in this process while its size and time stay the same.

        Raises:
            ConfigError: it cannot be read.
        """
        return _digest(self._file())

    def _file(self) -> _File:
        try:
            with open(self.path, "rb"):
                status = Path(self.path).stat()
            return _File(self.path, status.st_size, status.st_mtime_ns)
        except OSError as error:
            message = f"cannot read {self.path}: {error.strerror}; name a local weights file"
            raise ConfigError([Problem("weights.path", message)]) from None


class _File(NamedTuple):
    path: str
    size: int
    modified: int


@lru_cache(maxsize=32)
def _digest(file: _File) -> str:
    with open(file.path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


@lru_cache(maxsize=256)
def _misfit(file: _File, network: str, shape: Shape, classes: int) -> str:
    """Why a file's tensors are no weights of a network; empty where they are."""
    spec = NetworkSpec.parse(json.loads(network))
    try:
        fit(spec.sketch(shape, classes), spec.settings, read_state(file.path), file.path)
    except ConfigError as error:
        return "; ".join(str(problem) for problem in error.problems)
    return ""


def as_weights(data: Any) -> Any:
    """A bare path is a file whose inputs are the data set's."""
    return {"path": data} if isinstance(data, str) else data
