"""Saves: where half-done work is kept, so that it resumes where it stood."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Report = dict[str, float]
"""One epoch's figures."""


class Saves(Protocol):
    """Where half-done work is kept, so that it resumes at an epoch."""

    def load(self) -> dict[str, Tensor] | None:
        """What was stored last; none at a first start."""
        ...

    def due(self) -> bool:
        """Whether it is time to store again; asked after every epoch."""
        ...

    def store(self, tensors: dict[str, Tensor]) -> None:
        """Keep these, contiguous and on the CPU, instead of what was stored before."""
        ...


class Resumable(Protocol):
    """Work that stands between two epochs; ``curve`` holds the reports of those done."""

    curve: list[Report]

    def epoch(self) -> Report: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, tensors: Mapping[str, Tensor]) -> None: ...


def epoch_by_epoch(run: Resumable, epochs: int, saves: Saves | None) -> Iterator[Report]:
    """Do what is left of ``epochs``; yield every epoch's report, those of a start before first."""
    if saves is not None and (tensors := saves.load()) is not None:
        run.load(tensors)
        yield from map(dict, run.curve)
    while len(run.curve) < epochs:
        report = run.epoch()
        if saves is not None and saves.due():
            saves.store(run.state())
        yield dict(report)


def written(told: Any) -> Tensor:
    """Plain data as uint8, for files that hold tensors alone; :func:`read` gives it back."""
    return torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)


def read(tensor: Tensor) -> Any:
    """What :func:`written` was given."""
    return json.loads(tensor.numpy().tobytes())
