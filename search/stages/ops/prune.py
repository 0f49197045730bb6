"""Pruning as a stage: a trained network without its least important channels or weights."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar, Literal

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.calibrate_activations import calibrate_activations
from stillhouse.methods.core.training.evaluation import evaluate_validation, validation_metric_names
from stillhouse.methods.core.training.neighbourhood import recalibrate_batch_norm
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import load_network, network_description
from stillhouse.search.stages.core.stage import (
    COST_NAMES,
    EpochMetrics,
    NetworkOperation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.compression.layer_sizes import weight_shapes
from stillhouse.spaces.compression.pruning import Scope, prune_channels, prune_weights
from stillhouse.spaces.compression.quantisation import (
    bypass_quantisation,
    packed_state_dict,
    quantised_layers,
)
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.cost import compute_costs


class PruneNetwork(NetworkOperation):
    """Prune the first parent's network, recalibrate its statistics, evaluate it.

    Recalibration covers batch norm, and the ranges and scales of quantised layers.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "prune"

    how: Literal["channels", "weights"] = setting("channels", "what is removed")
    sparsity: float = setting(0.5, "share that is removed", gt=0.0, lt=1.0)
    scope: Scope = setting("layer", "of weights: the smallest of each layer, or of the network")
    recalibrate: int = setting(20, "training batches of 256 that recalibrate statistics", ge=0)

    @property
    def continues_parent(self) -> bool:
        return True

    def metric_names(self, stage: Stage) -> frozenset[str]:
        return COST_NAMES | validation_metric_names(stage.data, stage.subclasses) | {"nonzero"}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        dataset, about = open_data(data), facts(data)
        network = load_network(parents[0]).with_heads({}).eval()
        with bypass_quantisation(network):
            if self.how == "channels":
                prune_channels(network, about.shape, self.sparsity)
            else:
                prune_weights(network, self.sparsity, self.scope)
            network.to(context.device)
            if self.recalibrate:
                recalibrate_batch_norm(network, dataset, context.device, self.recalibrate)
        if layers := quantised_layers(network):
            for _, layer in layers:
                layer.update_scale()
            if self.recalibrate:
                calibrate_activations(network, dataset, context.device, self.recalibrate)
        metrics = evaluate_validation(network, dataset, context.device)
        network.cpu()
        metrics |= compute_costs(network, about.shape).plain() | {
            "nonzero": float(count_nonzero(network))
        }
        yield {"epoch": 1.0, **metrics}
        return StageResult(
            packed_state_dict(network), metrics, self._metadata(parents[0], network, data)
        )

    def _metadata(self, parent: Artifact, network: Any, data: DataConfig) -> dict[str, Any]:
        description = {k: v for k, v in network_description(parent).items() if k != "heads"}
        if self.how == "channels":
            description["trimmed"] = weight_shapes(network)
        else:
            description["sparse"] = True
        return {"data": facts(data).plain(), "assembly": description}


def count_nonzero(network: Any) -> int:
    """Number of parameters that are not 0."""
    return sum(int((parameter != 0).sum()) for parameter in network.parameters())
