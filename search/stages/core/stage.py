"""A stage: one expensive step with all its settings, and the key of its result."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.runtime.checkpointing import Checkpointer
from stillhouse.methods.core.runtime.checkpointing import EpochMetrics as EpochMetrics
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.core.metrics import NETWORK_METRICS
from stillhouse.spaces.config.base import Config, fingerprint
from stillhouse.spaces.config.problems import ConfigError, Problem

COST_NAMES = frozenset(NETWORK_METRICS)
"""Metrics of every network."""
REPLICA_SEED_OFFSET = 1000
"""Seed offset between replicas; larger than any repetition index, so the two never collide."""


@dataclass(frozen=True)
class StageResult:
    """Tensors, metrics and metadata that a finished stage stores."""

    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """Device, checkpoints and processes of a run; they change a result by rounding at most."""

    device: torch.device
    checkpointer: Checkpointer | None = None
    communicator: Communicator = SINGLE_PROCESS
    """Connects the :attr:`Operation.workers` processes of the run."""


class Operation(Config):
    """What a stage does: its settings, and how it runs. ``version`` rises with its mathematics.

    The subclasses below add what only some operations can do.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[str] = ""
    uses_data: ClassVar[bool] = True
    """Whether the result depends on the data set."""

    def identity(self) -> dict[str, Any]:
        """Plain data that decides the result, without the parents and the data set.

        Raises:
            ConfigError: a file that the operation reads is missing.
        """
        return self.plain()

    @property
    def epochs(self) -> int:
        """Number of epochs whose metrics :meth:`run` yields."""
        return 1

    @property
    def workers(self) -> int:
        """Number of processes that run the operation; the result does not depend on it."""
        return 1

    def metrics_so_far(self, curve: Sequence[EpochMetrics]) -> EpochMetrics:
        """The epoch whose metrics the record would hold if the run ended now.

        Args:
            curve: metrics of the epochs so far, at least one.
        """
        return curve[-1]

    def metric_names(self, stage: Stage) -> frozenset[str]:
        """Names of the metrics in the record of ``stage``, which runs this operation.

        Known before anything runs. A goal or a limit can name those of the last stage.
        """
        raise NotImplementedError

    def costs(self, data: DataConfig) -> dict[str, float]:
        """Costs that are known before the run: ``parameters``, ``flops``, ``bytes``."""
        return {}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        """Yield the metrics of each epoch, then return the result."""
        raise NotImplementedError


class NetworkOperation(Operation):
    """Builds a network, which can teach, be cut into blocks or be trained further."""

    @property
    def subclasses(self) -> int | None:
        """Number of subclasses per class; None: as in the network of the first parent."""
        return None

    @property
    def continues_parent(self) -> bool:
        """Whether the network starts from the weights of the first parent."""
        return False


class ImageOperation(Operation):
    """Synthesises training data: ``images`` and ``labels`` are among its tensors."""

    has_soft_labels: ClassVar[bool] = False
    """Whether the labels are soft and ``rates``, the step sizes to train with, come with them."""


class BatchOperation(Operation):
    """Can be built in one batch with others of its kind that share first parent and data set."""

    @property
    def batch_key(self) -> str:
        """Operations with equal keys may share a batch."""
        raise NotImplementedError

    @classmethod
    def run_batch(
        cls,
        operations: Sequence[Operation],
        data: DataConfig,
        parents: Sequence[Sequence[Artifact]],
        context: StageContext,
    ) -> Generator[list[EpochMetrics], None, list[StageResult]]:
        """:meth:`run` for several: yield their metrics of each epoch, then return their results.

        By default they run one after the other and yield once, at the end.
        """
        results = [
            run_to_end(operation.run(data, operation_parents, context))
            for operation, operation_parents in zip(operations, parents, strict=True)
        ]
        yield [last_metrics for last_metrics, _ in results]
        return [result for _, result in results]


@runtime_checkable
class Replicable(Protocol):
    """Can be repeated with other random choices."""

    def replica(self, index: int) -> Operation | None:
        """The operation with another seed for each ``index`` >= 1; None if nothing is random."""
        ...


def run_to_end(run: Generator[EpochMetrics, None, StageResult]) -> tuple[EpochMetrics, StageResult]:
    """The metrics of the last epoch of a run, and its result."""
    metrics: EpochMetrics = {}
    while True:
        try:
            metrics = next(run)
        except StopIteration as stop:
            return metrics, stop.value


@dataclass(frozen=True)
class Stage:
    """An operation on data and on the results of other stages.

    ``label`` is for people and not part of the key.
    """

    label: str
    operation: Operation
    data: DataConfig
    parents: tuple[Stage, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the result, as plain data."""
        return {
            "kind": self.operation.kind,
            "version": self.operation.version,
            "work": self.operation.identity(),
            "data": self.data.identity() if self.operation.uses_data else None,
            "parents": [parent.key for parent in self.parents],
        }

    @cached_property
    def key(self) -> str:
        """sha256 (hexadecimal) of the identity: known before anything runs."""
        return fingerprint(self.identity)

    @property
    def makes_network(self) -> bool:
        """Whether the result is a network."""
        return isinstance(self.operation, NetworkOperation)

    @property
    def continues_parent(self) -> bool:
        """Whether its network starts from the weights of the first parent."""
        return isinstance(self.operation, NetworkOperation) and self.operation.continues_parent

    @property
    def subclasses(self) -> int:
        """Number of subclasses per class of its network; 1: classes are not split."""
        own = self.operation.subclasses if isinstance(self.operation, NetworkOperation) else None
        if own is None:
            return self.parents[0].subclasses if self.parents else 1
        return own

    @property
    def metric_names(self) -> frozenset[str]:
        """Names of the metrics that its record will hold."""
        return self.operation.metric_names(self)

    @property
    def batch_key(self) -> str:
        """Stages with equal keys may be built in one batch; empty if it is built alone."""
        if not isinstance(self.operation, BatchOperation):
            return ""
        first_parent = self.parents[0].key if self.parents else ""
        data_fingerprint = fingerprint(self.data.identity()) if self.operation.uses_data else ""
        return f"{self.operation.kind} {first_parent} {data_fingerprint} {self.operation.batch_key}"

    def require_network(self, field: str, purpose: str) -> Stage:
        """The stage itself, if its result is a network; ``purpose`` completes "no network ...".

        Raises:
            ConfigError: at ``field``; the result is something else.
        """
        if not self.makes_network:
            message = f"{self.label} is a {self.operation.kind}, no network {purpose}"
            raise ConfigError([Problem(field, message)])
        return self

    def warm_start_chain(self) -> Iterator[Stage]:
        """This stage, the stage whose weights it starts from, and so on."""
        yield self
        if self.continues_parent:
            yield from self.parents[0].warm_start_chain()

    def ancestors(self) -> Iterator[Stage]:
        """This stage and all its ancestors, each once, parents first."""
        seen: set[str] = set()
        yield from self._parents_first(seen)

    def _parents_first(self, seen: set[str]) -> Iterator[Stage]:
        if self.key in seen:
            return
        seen.add(self.key)
        for parent in self.parents:
            yield from parent._parents_first(seen)
        yield self
