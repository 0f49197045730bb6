"""Pruning as a stage: a trained network less what matters least in it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar, Literal

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.calibrate_activations import take_ranges
from stillhouse.methods.core.training.evaluation import validated, validated_names
from stillhouse.methods.core.training.neighbourhood import recalibrate
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import described, rebuild
from stillhouse.search.stages.core.stage import COSTS, Bench, Product, Report, Stage, Work
from stillhouse.spaces.compression.layer_sizes import sizes
from stillhouse.spaces.compression.pruning import Scope, prune_channels, prune_weights
from stillhouse.spaces.compression.quantisation import as_floats, quantised_layers, stored
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.cost import costs


class PruneNetwork(Work):
    """Prune the first parent's network, take its statistics anew, evaluate it.

    Statistics are those of batch norm, and the ranges and scales of quantised layers.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "prune"
    makes_network: ClassVar[bool] = True

    how: Literal["channels", "weights"] = knob("channels", "what is taken out")
    sparsity: float = knob(0.5, "share that is taken out", gt=0.0, lt=1.0)
    scope: Scope = knob("layer", "of weights: among which the smallest are sought")
    recalibrate: int = knob(20, "training batches of 256 for statistics", ge=0)

    @property
    def goes_on(self) -> bool:
        return True

    def figures(self, stage: Stage) -> frozenset[str]:
        return COSTS | validated_names(stage.data, stage.subclasses) | {"nonzero"}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset, about = open_data(data), facts(data)
        network = rebuild(parents[0]).with_heads({}).eval()
        with as_floats(network):
            if self.how == "channels":
                prune_channels(network, about.shape, self.sparsity)
            else:
                prune_weights(network, self.sparsity, self.scope)
            network.to(bench.device)
            if self.recalibrate:
                recalibrate(network, dataset, bench.device, self.recalibrate)
        if layers := quantised_layers(network):
            for _, layer in layers:
                layer.rescale()
            if self.recalibrate:
                take_ranges(network, dataset, bench.device, self.recalibrate)
        figures = validated(network, dataset, bench.device)
        network.cpu()
        figures |= costs(network, about.shape).plain() | {"nonzero": float(nonzero(network))}
        yield {"epoch": 1.0, **figures}
        return Product(stored(network), figures, self._facts(parents[0], network, data))

    def _facts(self, parent: Artifact, network: Any, data: DataConfig) -> dict[str, Any]:
        told = {k: v for k, v in described(parent).items() if k != "heads"}
        if self.how == "channels":
            told["trimmed"] = sizes(network)
        else:
            told["sparse"] = True
        return {"data": facts(data).plain(), "assembly": told}


def nonzero(network: Any) -> int:
    """How many parameters are not 0."""
    return sum(int((p != 0).sum()) for p in network.parameters())
