"""``do: prune``: channels or weights taken out of a network, and a fine-tuning by what it was."""

from __future__ import annotations

from typing import Literal

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.expansion.compression import (
    CompressionConfig,
    FineTuningConfig,
    original_spec,
)
from stillhouse.search.stages.ops.prune import PruneNetwork
from stillhouse.spaces.compression.pruning import Scope, check_prunable, narrowest_layer
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Uniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network


class PruningConfig(FineTuningConfig):
    """What is taken out, and how it is tuned afterwards."""

    how: Literal["channels", "weights"] = setting(
        "channels",
        "channels, with all that reads them, which makes it faster; or single weights, as zeros",
        Choice(("channels", "weights")),
    )
    sparsity: float = setting(0.5, "share that is taken out", Uniform(0.1, 0.9), gt=0.0, lt=1.0)
    scope: Scope = setting(
        "layer",
        "of weights: the smallest of each layer, or of the network",
        Choice(("layer", "network")),
    )
    recalibrate: int = setting(20, "training batches of 256 for statistics", ge=0)


class Prune(PruningConfig, CompressionConfig):
    """An entry that prunes a network; it needs the packages of the extra ``compress``."""

    required_package = "torch_pruning"

    def compression_operation(self, start_stage: Stage, data: DataConfig) -> PruneNetwork:
        if (spec := original_spec(start_stage)) is not None:
            about = facts(data)
            sketch = spec.build_for_shapes(about.shape, about.classes)
            check_prunable(sketch)
            if start_stage.operation.kind == "train" and not start_stage.continues_parent:
                self._require_remaining_channels(start_stage.label, sketch)
        return PruneNetwork(
            how=self.how, sparsity=self.sparsity, scope=self.scope, recalibrate=self.recalibrate
        )

    def _require_remaining_channels(self, label: str, sketch: Network) -> None:
        """Before anything is trained: something stays of every layer that has channels."""
        path, count = narrowest_layer(sketch)
        if self.how == "channels" and count * (1 - self.sparsity) < 1:
            message = (
                f"{self.sparsity:g} would leave nothing of {label}'s {path}, which has "
                f"{count} channels; take at most {1 - 1 / count:.2f}"
            )
            raise ConfigError([Problem("sparsity", message)])
