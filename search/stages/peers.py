"""``do: peers``: networks that learn together and from one another (online distillation).

Deep mutual learning (Zhang et al. 2018) where the objective is cross entropy and soft targets at
temperature 1; see :mod:`stillhouse.methods.core.training.peers`. The first network is the student
and the result; the others' figures come beside its own, as ``peer1_val_accuracy`` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.runtime.seeding import seed_from
from stillhouse.methods.core.training.evaluation import validated_names
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.expansion.teachers import check_taught, declared_field, split_network
from stillhouse.search.stages.ops.train import TrainNetwork, fresh
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec


class TrainPeers(TrainNetwork):
    """Train a network beside others that are teachers and students at once."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "peers"

    peers: tuple[NetworkSpec, ...] = knob((), "the networks beside it")

    @property
    def beside(self) -> tuple[NetworkSpec, ...]:
        return self.peers

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "peers": [peer.identity() for peer in self.peers]}

    def split(self, subclasses: int, added: Mapping[str, Any]) -> TrainNetwork | None:
        found = super().split(subclasses, added)
        peers = tuple(peer.split(subclasses) for peer in self.peers)
        return found and found.model_copy(update={"peers": peers})

    def figures(self, stage: Stage) -> frozenset[str]:
        found = super().figures(stage)
        for place, peer in enumerate(self.peers, start=1):
            names = validated_names(stage.data, peer.subclasses)
            found |= {f"train_peer{place}_loss", *(f"peer{place}_{name}" for name in names)}
        return found

    def _peers(self, data: DataConfig) -> list[Network]:
        return [self._peer(place, data) for place in range(len(self.peers))]

    def _peer(self, place: int, data: DataConfig) -> Network:
        """The peer at a place, from a seed of its own: equal networks must not start equal."""
        with torch.random.fork_rng():
            torch.manual_seed(seed_from(self.seed, place + 1))
            return fresh(self.peers[place], data)


class Peers(Kind):
    """An entry that trains a student and its peers in one stage."""

    network: NetworkSpec = knob(..., "the student: a name, or {name: {settings}}")
    peers: tuple[NetworkSpec, ...] = knob(..., "networks that learn beside it, of any sizes")
    teachers: tuple[str, ...] = knob((), "entries that all of them learn from as well")
    objective: Objective = knob(..., "what each learns by; all others are its teachers")
    training: Training = knob(Training(), "how each is trained")

    def needs(self) -> tuple[str, ...]:
        return self.teachers

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        if not self.peers:
            message = "names none; a network without peers is an ordinary entry (do: train)"
            raise ConfigError([Problem("peers", message)])
        if not any(METHODS.load(method).needs_teacher for method in self.objective.terms):
            message = "has no method that listens to the peers; add one, like soft_targets"
            raise ConfigError([Problem("objective", message)])
        teachers = [member for teacher in self.teachers for member in needed[teacher].members]
        if teachers:
            check_taught(self.objective, teachers)
        about = facts(data)
        for peer in self.peers:  # what does not fit the images is to be known now
            network_costs(peer.plain(), about.shape, about.classes)
        work = TrainPeers(
            network=split_network(self.network, self.objective),
            peers=tuple(split_network(peer, self.objective) for peer in self.peers),
            objective=self.objective,
            training=self.training,
            seed=self.seed,
        )
        return Entry((Stage(name, work, data, tuple(teachers)),))

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        return declared_field(self, path)
