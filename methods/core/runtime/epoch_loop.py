"""The loop over epochs of every optimisation: metrics, time, best epoch and checkpoints."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stillhouse.methods.core.runtime.checkpointing import (
    Checkpointer,
    EpochMetrics,
    add_prefix,
    copy_to_cpu,
    json_to_tensor,
    strip_prefix,
    tensor_to_json,
)


class Diverged(RuntimeError):
    """A loss is not finite: another attempt with the same settings would fail too."""


class EpochLoop(ABC):
    """An optimisation in epochs that resumes from a checkpoint with the same bits.

    ``curve`` holds the metrics of all finished epochs. ``best`` holds the tensors of the best
    epoch; a subclass that selects by validation sets them.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        self.curve: list[EpochMetrics] = []
        self.best: dict[str, Tensor] = {}
        self.device = device

    @abstractmethod
    def run_epoch(self, epoch: int) -> EpochMetrics:
        """Train and measure one epoch, counted from 0."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All tensors that change from epoch to epoch, without ``best``."""

    @abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors of :meth:`tensors`; ``curve`` and ``best`` are restored already."""

    def run(self, epochs: int, checkpointer: Checkpointer | None) -> Iterator[EpochMetrics]:
        """Run until ``epochs`` epochs are done; yield the metrics of all, restored ones first."""
        if checkpointer is not None and (tensors := checkpointer.load()) is not None:
            self.load(tensors)
            yield from map(dict, self.curve)
        while len(self.curve) < epochs:
            metrics = self.epoch()
            if checkpointer is not None and checkpointer.is_due():
                checkpointer.save(self.state())
            yield dict(metrics)

    def epoch(self) -> EpochMetrics:
        """Run the next epoch, add its ``seconds`` and append its metrics to the curve."""
        start_time = time.perf_counter()
        metrics = self.run_epoch(len(self.curve))
        metrics["seconds"] = time.perf_counter() - start_time
        self.curve.append(metrics)
        return metrics

    def state(self) -> dict[str, Tensor]:
        """A checkpoint of the loop, for :meth:`load`."""
        best = add_prefix("best", self.best)
        return copy_to_cpu(self.tensors() | best | {"curve": json_to_tensor(self.curve)})

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a checkpoint of :meth:`state`, of a loop built the same way."""
        self.curve = tensor_to_json(tensors["curve"])
        self.best = {k: v.to(self.device) for k, v in strip_prefix("best", tensors).items()}
        self.load_tensors(tensors)


def check_finite(metrics: EpochMetrics, remedy: str) -> None:
    """Stop after an epoch with a metric that is not finite.

    Raises:
        Diverged: a metric is infinite or not a number; the message ends with ``remedy``.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} after epoch {metrics['epoch']:.0f}: {remedy}")
