"""Checkpoints of unfinished training, as tensors by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

EpochMetrics = dict[str, float]
"""The metrics of one epoch, by name."""


class Checkpointer(Protocol):
    """Stores the state of unfinished training, so that it resumes at an epoch."""

    def load(self) -> dict[str, Tensor] | None:
        """The last checkpoint; None if there is none."""
        ...

    def is_due(self) -> bool:
        """Whether to store a checkpoint now; called after every epoch."""
        ...

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Replace the checkpoint by ``tensors``, which are contiguous and on the CPU."""
        ...


def json_to_tensor(data: Any) -> Tensor:
    """Encode JSON data as a uint8 tensor, for files that hold tensors only."""
    return torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)


def tensor_to_json(tensor: Tensor) -> Any:
    """Decode a tensor of :func:`json_to_tensor`."""
    return json.loads(tensor.numpy().tobytes())


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with ``prefix.`` before every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix.``, without that prefix."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}


def copy_to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, without gradients."""
    return {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in tensors.items()
    }
