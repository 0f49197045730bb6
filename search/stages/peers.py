"""``do: peers``: networks that are trained together and teach one another (online distillation).

Deep mutual learning (Zhang et al. 2018) if the objective is cross entropy and soft targets at
temperature 1; see ``stillhouse.methods.core.training.peers``. The first network is the student and
the result. The record contains the metrics of the others, such as ``peer1_val_accuracy``.
"""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.expansion.teachers import (
    require_matching_teachers,
    training_field_domain,
    with_subclasses,
)
from stillhouse.search.stages.ops.peers import TrainPeers
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.network_spec import NetworkSpec


class Peers(StageConfig):
    """An entry that trains a student and its peers in one stage."""

    network: NetworkSpec = setting(..., "the student: a name, or {name: {settings}}")
    peers: tuple[NetworkSpec, ...] = setting(..., "networks that are trained with it, of any size")
    teachers: tuple[str, ...] = setting((), "entries that also teach all of them")
    objective: Objective = setting(..., "objective of each network; all others are its teachers")
    training: Training = setting(Training(), "training of each network")

    def dependencies(self) -> tuple[str, ...]:
        return self.teachers

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        if not self.peers:
            message = "is empty; use do: train for a network without peers"
            raise ConfigError([Problem("peers", message)])
        if not any(METHODS.load(method).needs_teacher for method in self.objective.terms):
            message = "has no method that uses the peers; add one, such as soft_targets"
            raise ConfigError([Problem("objective", message)])
        teachers = [
            member
            for teacher in self.teachers
            for member in expanded_dependencies[teacher].teaching_stages
        ]
        if teachers:
            require_matching_teachers(self.objective, teachers)
        about = facts(data)
        for peer in self.peers:  # fails now if a network does not fit the images
            network_costs(peer.plain(), about.shape, about.classes)
        operation = TrainPeers(
            network=with_subclasses(self.network, self.objective),
            peers=tuple(with_subclasses(peer, self.objective) for peer in self.peers),
            objective=self.objective,
            training=self.training,
            seed=self.seed,
        )
        return ExpandedStage((Stage(name, operation, data, tuple(teachers)),))

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        return training_field_domain(self, path)
