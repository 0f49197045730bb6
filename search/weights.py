"""Weights: a file of published weights, as an entry of an experiment names it."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import model_validator

from spaces.config import Config, knob
from spaces.problem import ConfigError, Problem


class Weights(Config):
    """Published weights: a local safetensors file or state dict, and the inputs they expect."""

    path: str = knob(..., "file with the tensors")
    mean: tuple[float, ...] | None = knob(None, "per-channel mean of inputs in 0..1")
    std: tuple[float, ...] | None = knob(None, "per-channel standard deviation")

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("needs mean and std, or neither")
        return self

    def from_anywhere(self) -> Weights:
        """With an absolute path: workers have working directories of their own."""
        absolute = str(Path(self.path).expanduser().absolute())
        return self.model_copy(update={"path": absolute})

    def digest(self) -> str:
        """sha256 of the file; read once in this process while its size and time stay the same.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            status = Path(self.path).stat()
            return _digest(_File(self.path, status.st_size, status.st_mtime_ns))
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


def as_weights(data: Any) -> Any:
    """A bare path is a file whose inputs are the data set's."""
    return {"path": data} if isinstance(data, str) else data
