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
    """Settings of pruning and of the fine-tuning afterwards."""

    how: Literal["channels", "weights"] = setting(
        "channels",
        "channels: remove channels and their readers, for speed; weights: set single weights to 0",
        Choice(("channels", "weights")),
    )
    sparsity: float = setting(0.5, "share that is removed", Uniform(0.1, 0.9), gt=0.0, lt=1.0)
    scope: Scope = setting(
        "layer",
        "of weights: prune the smallest of each layer, or of the network",
        Choice(("layer", "network")),
    )
    recalibrate: int = setting(
        20, "training batches of 256 that recalibrate batch-norm statistics", ge=0
    )


class Prune(PruningConfig, CompressionConfig):
    """An entry that prunes a network; needs the extra ``compress``."""

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
        """Check that every layer keeps a channel."""
        path, count = narrowest_layer(sketch)
        if self.how == "channels" and count * (1 - self.sparsity) < 1:
            message = (
                f"{self.sparsity:g} would remove every channel of {path} in {label}, which has "
                f"{count}; set at most {1 - 1 / count:.2f}"
            )
            raise ConfigError([Problem("sparsity", message)])
