"""Saves: where half-done work is kept, so that it resumes where it stood."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

EpochMetrics = dict[str, float]
"""One epoch's figures."""


class Checkpointer(Protocol):
    """Where half-done work is kept, so that it resumes at an epoch."""

    def load(self) -> dict[str, Tensor] | None:
        """What was stored last; none at a first start."""
        ...

    def is_due(self) -> bool:
        """Whether it is time to store again; asked after every epoch."""
        ...

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Keep these, contiguous and on the CPU, instead of what was stored before."""
        ...


class ResumableRun(Protocol):
    """Work that stands between two epochs; ``curve`` holds the reports of those done."""

    curve: list[EpochMetrics]

    def epoch(self) -> EpochMetrics: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


def run_epochs(
    run: ResumableRun, epochs: int, checkpointer: Checkpointer | None
) -> Iterator[EpochMetrics]:
    """Do what is left of ``epochs``; yield every epoch's report, those of a start before first."""
    if checkpointer is not None and (tensors := checkpointer.load()) is not None:
        run.load(tensors)
        yield from map(dict, run.curve)
    while len(run.curve) < epochs:
        metrics = run.epoch()
        if checkpointer is not None and checkpointer.is_due():
            checkpointer.save(run.state())
        yield dict(metrics)


def json_to_tensor(data: Any) -> Tensor:
    """Plain data as uint8, for files that hold tensors alone; :func:`tensor_to_json` gives it
    back."""
    return torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)


def tensor_to_json(tensor: Tensor) -> Any:
    """What :func:`json_to_tensor` was given."""
    return json.loads(tensor.numpy().tobytes())
