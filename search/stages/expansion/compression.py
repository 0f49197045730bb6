"""Compression entries: a step without training, then fine-tuning with the original as teacher."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import ClassVar

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import Operation, Stage
from stillhouse.search.stages.expansion import prerequisites
from stillhouse.search.stages.expansion.teachers import (
    require_matching_teachers,
    training_field_domain,
)
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.network_spec import NetworkSpec

DEFAULT_FINE_TUNING_OBJECTIVE = {
    "cross_entropy": {"weight": 0.3},
    "soft_targets": {"weight": 0.7, "temperature": 4.0},
}


class FineTuningConfig(Config):
    """Fine-tuning of a compressed network."""

    objective: Objective | None = setting(
        Objective.parse(DEFAULT_FINE_TUNING_OBJECTIVE),
        "objective of the fine-tuning; none: no fine-tuning",
    )
    training: Training = setting(Training(epochs=5, lr=0.01), "training of the fine-tuning")

    @property
    def fine_tuning_objective(self) -> Objective | None:
        """Objective of the fine-tuning; None without fine-tuning."""
        return self.objective


class CompressionConfig(FineTuningConfig, StageConfig):
    """An entry that compresses the network of another."""

    required_package: ClassVar[str]
    """Package that compresses; the extra ``compress`` installs it."""

    start: str = setting(..., "the entry whose network is compressed")
    teachers: tuple[str, ...] = setting((), "teachers of the fine-tuning; none: the entry `start`")

    def dependencies(self) -> tuple[str, ...]:
        return (self.start, *self.teachers)

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        if find_spec(self.required_package) is None:
            message = f"{self.do} needs {self.required_package}; pip install 'stillhouse[compress]'"
            raise ConfigError([Problem("do", message)])
        start_stage = expanded_dependencies[self.start].stage
        start_stage.require_network("start", "to compress")
        operation = self.compression_operation(start_stage, data)
        compressed = Stage(f"{name}/{operation.kind}d", operation, data, (start_stage,))
        objective = self.fine_tuning_objective
        if objective is None:
            return ExpandedStage((compressed,))
        teacher_names = self.teachers or (self.start,)
        named_teachers = [
            member
            for teacher in teacher_names
            for member in expanded_dependencies[teacher].teaching_stages[-1:]
        ]
        teachers = named_teachers if objective.needs_teacher else []
        require_matching_teachers(objective, teachers)
        fine_tuning = TrainNetwork(
            network=None, objective=objective, training=self.training, seed=self.seed
        )
        parents = (compressed, *prerequisites.expand(objective, teachers))
        return ExpandedStage((compressed, Stage(name, fine_tuning, data, parents)))

    def compression_operation(self, start_stage: Stage, data: DataConfig) -> Operation:
        """The operation that compresses the network of ``start_stage``.

        Raises:
            ConfigError: the network cannot be compressed.
        """
        raise NotImplementedError

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        domain = training_field_domain(self, path) if path[0] in ("objective", "training") else None
        return domain or type(self).search_space().get(".".join(path))


def original_spec(stage: Stage) -> NetworkSpec | None:
    """The named network at the start of the warm-start chain; None for an assembly."""
    *_, first_stage = stage.warm_start_chain()
    return (
        first_stage.operation.network if isinstance(first_stage.operation, TrainNetwork) else None
    )
