"""Quantising as a stage: a trained network whose layers compute with few bits."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.runtime.folding import folded
from stillhouse.methods.core.training.calibrate_activations import take_ranges
from stillhouse.methods.core.training.evaluation import validated, validated_names
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import described, rebuild
from stillhouse.search.stages.core.stage import COSTS, Bench, Product, Report, Stage, Work
from stillhouse.spaces.compression.quantisation import quantise, stored, summed_up
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.cost import costs


class QuantiseNetwork(Work):
    """Fold the first parent's batch norm, quantise it, take ranges, evaluate it."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "quantise"
    makes_network: ClassVar[bool] = True

    bits: int = knob(8, "of each weight", ge=2, le=8)
    batches: int = knob(20, "training batches of 256 from which ranges are taken", ge=1)

    @property
    def goes_on(self) -> bool:
        return True

    def figures(self, stage: Stage) -> frozenset[str]:
        return COSTS | validated_names(stage.data, stage.subclasses)

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset, about = open_data(data), facts(data)
        before = rebuild(parents[0]).with_heads({}).eval()
        sample = next(dataset.batches("train", batch_size=8, device="cpu")).images
        network = folded(before, sample)
        changed = [n for n in network.names if network.blocks[n] is not before.blocks[n]]
        leaving = summed_up(network)
        quantise(network, self.bits, leaving)
        network.to(bench.device)
        take_ranges(network, dataset, bench.device, self.batches)
        figures = validated(network, dataset, bench.device)
        network.cpu()
        figures |= costs(network, about.shape).plain()
        yield {"epoch": 1.0, **figures}
        return Product(stored(network), figures, self._facts(parents[0], changed, leaving, data))

    def _facts(
        self, parent: Artifact, changed: list[str], leaving: list[str], data: DataConfig
    ) -> dict[str, Any]:
        told = {k: v for k, v in described(parent).items() if k != "heads"}
        already = told.get("quantised") or {"folded": [], "leaving": []}
        told["quantised"] = {
            "bits": self.bits,
            "folded": [*already["folded"], *changed],
            "leaving": [*already["leaving"], *leaving],
        }
        return {"data": facts(data).plain(), "assembly": told}
