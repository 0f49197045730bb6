"""Published weights: the file that an entry of an experiment names."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import model_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.spaces.config.base import Config, canonical_json, setting
from stillhouse.spaces.config.normalisation import normalisation_error
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Shape
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.weights import match_state, read_state


class WeightsSettings(Config):
    """Published weights: a local safetensors file or state dict, and the inputs they expect."""

    path: str = setting(..., "file with the tensors")
    mean: tuple[float, ...] | None = setting(None, "per-channel mean of inputs in 0..1")
    std: tuple[float, ...] | None = setting(None, "per-channel standard deviation")

    @model_validator(mode="after")
    def _require_mean_and_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("needs mean and std, or neither")
        if self.mean is None or self.std is None:
            return self
        if fault := normalisation_error(self.mean, self.std):
            raise ValueError(fault)
        return self

    def require_fit(self, network: NetworkSpec, data: DataConfig) -> None:
        """Read the file and compare its tensors with a network; cached, as it may take seconds.

        Raises:
            ConfigError: the file is unreadable, does not fit the network, or normalises another
                number of channels.
        """
        about = facts(data)
        channels = about.shape[0]
        if self.mean and self.std and (fault := normalisation_error(self.mean, self.std, channels)):
            raise ConfigError([Problem("weights.mean", fault)])
        network_json = canonical_json(network.plain())
        if fault := _misfit_reason(
            self._file_stamp(), network_json, tuple(about.shape), about.classes
        ):
            raise ConfigError([Problem("weights.path", fault)])

    def with_absolute_path(self) -> WeightsSettings:
        """With an absolute path: workers have their own working directories."""
        absolute_path = str(Path(self.path).expanduser().absolute())
        return self.model_copy(update={"path": absolute_path})

    def file_sha256(self) -> str:
        """sha256 of the file; cached in this process while its size and time do not change.

        Raises:
            ConfigError: the file is unreadable.
        """
        return _file_sha256(self._file_stamp())

    def _file_stamp(self) -> _FileStamp:
        try:
            with open(self.path, "rb"):
                file_stat = Path(self.path).stat()
            return _FileStamp(self.path, file_stat.st_size, file_stat.st_mtime_ns)
        except OSError as error:
            message = f"cannot read {self.path}: {error.strerror}; name a local weights file"
            raise ConfigError([Problem("weights.path", message)]) from None


class _FileStamp(NamedTuple):
    path: str
    size: int
    modified_ns: int


@lru_cache(maxsize=32)
def _file_sha256(file: _FileStamp) -> str:
    with open(file.path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


@lru_cache(maxsize=256)
def _misfit_reason(file: _FileStamp, network_json: str, shape: Shape, classes: int) -> str:
    """Why the tensors of a file do not fit a network; empty if they fit."""
    spec = NetworkSpec.parse(json.loads(network_json))
    try:
        match_state(
            spec.build_for_shapes(shape, classes), spec.settings, read_state(file.path), file.path
        )
    except ConfigError as error:
        return "; ".join(str(problem) for problem in error.problems)
    return ""


def as_weights(data: Any) -> Any:
    """Accept a bare path: a file whose inputs are normalised like the data set."""
    return {"path": data} if isinstance(data, str) else data
