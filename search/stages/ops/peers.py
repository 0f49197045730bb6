"""Training with peers as a stage: networks that learn from one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.runtime.seeding import derive_seed
from stillhouse.methods.core.training.evaluation import validation_metric_names
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork, new_network
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec


class TrainPeers(TrainNetwork):
    """Train a network together with peers; each is student and teacher."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "peers"

    peers: tuple[NetworkSpec, ...] = setting((), "the other networks")

    @property
    def peer_networks(self) -> tuple[NetworkSpec, ...]:
        return self.peers

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "peers": [peer.identity() for peer in self.peers]}

    def split_classes(
        self, subclasses: int, extra_methods: Mapping[str, Any]
    ) -> TrainNetwork | None:
        operation = super().split_classes(subclasses, extra_methods)
        peers = tuple(peer.with_num_subclasses(subclasses) for peer in self.peers)
        return operation and operation.model_copy(update={"peers": peers})

    def metric_names(self, stage: Stage) -> frozenset[str]:
        names_of_all = super().metric_names(stage)
        for number, peer in enumerate(self.peers, start=1):
            names = validation_metric_names(stage.data, peer.subclasses)
            names_of_all |= {
                f"train_peer{number}_loss",
                *(f"peer{number}_{name}" for name in names),
            }
        return names_of_all

    def _build_peers(self, data: DataConfig) -> list[Network]:
        return [self._build_peer(index, data) for index in range(len(self.peers))]

    def _build_peer(self, index: int, data: DataConfig) -> Network:
        """The peer at ``index``, with a seed of its own: equal networks must start differently."""
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.seed, index + 1))
            return new_network(self.peers[index], data)
