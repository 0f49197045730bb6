"""A stage: one expensive step, fully decided, with the key under which its result is kept."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.core.metrics import NETWORK_METRICS
from stillhouse.spaces.config.base import Config, fingerprint

EpochMetrics = dict[str, float]
"""One epoch's figures, flat: ``epoch``, ``train_loss``, ``val_accuracy``, ..."""


COST_NAMES = frozenset(NETWORK_METRICS)
"""Metrics of every network."""
REPLICA_SEED_OFFSET = 1000
"""Between the seeds of works made again: repetitions over seeds take those right beside."""


@dataclass(frozen=True)
class StageResult:
    """What a stage hands over when it is done."""

    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Checkpointer(Protocol):
    """Where a stage keeps its half-done state, so that it resumes at an epoch."""

    def load(self) -> dict[str, Tensor] | None: ...

    def is_due(self) -> bool: ...

    def save(self, tensors: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class StageContext:
    """Where a stage works: nothing here may change its result beyond the device's rounding."""

    device: torch.device
    checkpointer: Checkpointer | None = None
    communicator: Communicator = SINGLE_PROCESS
    """One of the :attr:`Operation.workers` that make it together."""


class Operation(Config):
    """What a stage does: its settings, and how it runs. ``version`` rises with its mathematics."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = ""
    makes_network: ClassVar[bool] = False
    """Whether what is made can teach, be cut, or be started from."""
    makes_images: ClassVar[bool] = False
    """Whether what is made can be trained on: ``images`` and ``labels`` among its tensors."""
    makes_soft_labels: ClassVar[bool] = False
    """Whether those labels are soft, and steps to take on them come along: ``rates``."""
    uses_data: ClassVar[bool] = True
    """Whether the data set has a part in the result."""

    def identity(self) -> dict[str, Any]:
        """The plain data that decides the result, parents and data set apart.

        Raises:
            ConfigError: a file that belongs to it is missing.
        """
        return self.plain()

    def replica(self, index: int) -> Operation | None:
        """The same work from other random choices, others for every ``index`` from 1 up; none
        where it makes no choice at random."""
        return None

    def split_classes(self, subclasses: int, extra_methods: Mapping[str, Any]) -> Operation | None:
        """The same work on a network that splits every class into so many, with methods
        ``extra_methods`` to its objective; none where it has no such network of its own to
        teach."""
        return None

    @property
    def subclasses(self) -> int | None:
        """Into how many subclasses its network splits every class; none: as its first parent's."""
        return None

    @property
    def continues_parent(self) -> bool:
        """Whether it goes on from the weights of its first parent."""
        return False

    @property
    def epochs(self) -> int:
        """How many reports the work yields."""
        return 1

    @property
    def workers(self) -> int:
        """Over how many processes it is spread; the result is that of one."""
        return 1

    @property
    def batch_key(self) -> str:
        """Stages of one kind, with the same first parent and data set if they have any, that say
        the same here may be made in one pass by :meth:`run_batch`; empty where each is made
        alone."""
        return ""

    @classmethod
    def run_batch(
        cls,
        operations: Sequence[Operation],
        data: DataConfig,
        parents: Sequence[Sequence[Artifact]],
        context: StageContext,
    ) -> Generator[list[EpochMetrics], None, list[StageResult]]:
        """:meth:`run` for several: yield their reports of an epoch, then return their products.

        One after the other, with one report at the end, where a kind knows nothing better.
        """
        results = [
            run_to_end(operation.run(data, operation_parents, context))
            for operation, operation_parents in zip(operations, parents, strict=True)
        ]
        yield [last_metrics for last_metrics, _ in results]
        return [result for _, result in results]

    def metrics_so_far(self, curve: Sequence[EpochMetrics]) -> EpochMetrics:
        """The report that holds the figures of what would be kept if it ended now.

        Args:
            curve: the reports so far, one at least.
        """
        return curve[-1]

    def metric_names(self, stage: Stage) -> frozenset[str]:
        """Names of the figures that the record of ``stage``, whose work this is, will hold.

        Known before anything runs. A goal or a limit can name those of the last stage.
        """
        raise NotImplementedError

    def costs(self, data: DataConfig) -> dict[str, float]:
        """What is known before running: ``parameters``, ``flops``, ``bytes``."""
        return {}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        """Yield a report an epoch, then return what was made."""
        raise NotImplementedError


def run_to_end(run: Generator[EpochMetrics, None, StageResult]) -> tuple[EpochMetrics, StageResult]:
    """The last report of a work, and what it made."""
    metrics: EpochMetrics = {}
    while True:
        try:
            metrics = next(run)
        except StopIteration as stop:
            return metrics, stop.value


@dataclass(frozen=True)
class Stage:
    """Work on data with the results of other stages. ``label`` is for people, not in the key."""

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
    def subclasses(self) -> int:
        """Into how many subclasses its network splits every class; 1: into none."""
        subclasses_of_operation = self.operation.subclasses
        if subclasses_of_operation is None:
            return self.parents[0].subclasses if self.parents else 1
        return subclasses_of_operation

    @property
    def metric_names(self) -> frozenset[str]:
        """Names of the figures that its record will hold."""
        return self.operation.metric_names(self)

    @property
    def batch_key(self) -> str:
        """Stages that say the same here may be made in one pass; empty where made alone."""
        if not self.operation.batch_key:
            return ""
        first_parent = self.parents[0].key if self.parents else ""
        data_fingerprint = fingerprint(self.data.identity()) if self.operation.uses_data else ""
        return f"{self.operation.kind} {first_parent} {data_fingerprint} {self.operation.batch_key}"

    def warm_start_chain(self) -> Iterator[Stage]:
        """This stage, the one whose network it goes on from, that one's, and so on."""
        yield self
        if self.operation.continues_parent:
            yield from self.parents[0].warm_start_chain()

    def ancestors(self) -> Iterator[Stage]:
        """This stage and all it rests on, each once, parents first."""
        seen: set[str] = set()
        yield from self._parents_first(seen)

    def _parents_first(self, seen: set[str]) -> Iterator[Stage]:
        if self.key in seen:
            return
        seen.add(self.key)
        for parent in self.parents:
            yield from parent._parents_first(seen)
        yield self
