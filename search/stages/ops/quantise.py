"""Quantisation as a stage: a trained network with low-precision arithmetic."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.runtime.folding import fold_batch_norm
from stillhouse.methods.core.training.calibrate_activations import calibrate_activations
from stillhouse.methods.core.training.evaluation import evaluate_validation, validation_metric_names
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
from stillhouse.spaces.compression.quantisation import (
    layers_feeding_sums,
    packed_state_dict,
    quantise,
)
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.cost import compute_costs


class QuantiseNetwork(NetworkOperation):
    """Fold the batch norm of the first parent's network, quantise, calibrate and evaluate it."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "quantise"

    bits: int = setting(8, "bits of each weight", ge=2, le=8)
    batches: int = setting(
        20, "training batches of 256 that calibrate the ranges of activations", ge=1
    )

    @property
    def continues_parent(self) -> bool:
        return True

    def metric_names(self, stage: Stage) -> frozenset[str]:
        return COST_NAMES | validation_metric_names(stage.data, stage.subclasses)

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        dataset, about = open_data(data), facts(data)
        original = load_network(parents[0]).with_heads({}).eval()
        sample = next(dataset.batches("train", batch_size=8, device="cpu")).images
        network = fold_batch_norm(original, sample)
        folded_blocks = [
            name for name in network.names if network.blocks[name] is not original.blocks[name]
        ]
        quantised_outputs = layers_feeding_sums(network)
        quantise(network, self.bits, quantised_outputs)
        network.to(context.device)
        calibrate_activations(network, dataset, context.device, self.batches)
        metrics = evaluate_validation(network, dataset, context.device)
        network.cpu()
        metrics |= compute_costs(network, about.shape).plain()
        yield {"epoch": 1.0, **metrics}
        return StageResult(
            packed_state_dict(network),
            metrics,
            self._metadata(parents[0], folded_blocks, quantised_outputs, data),
        )

    def _metadata(
        self,
        parent: Artifact,
        folded_blocks: list[str],
        quantised_outputs: list[str],
        data: DataConfig,
    ) -> dict[str, Any]:
        description = {k: v for k, v in network_description(parent).items() if k != "heads"}
        earlier = description.get("quantised") or {"folded": [], "leaving": []}
        description["quantised"] = {
            "bits": self.bits,
            "folded": [*earlier["folded"], *folded_blocks],
            "leaving": [*earlier["leaving"], *quantised_outputs],
        }
        return {"data": facts(data).plain(), "assembly": description}
