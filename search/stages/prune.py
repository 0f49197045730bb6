"""``do: prune``: channels or weights taken out of a network, and a fine-tuning by what it was."""

from __future__ import annotations

from typing import Literal

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.expansion.compression import Compressed, Tuned, origin
from stillhouse.search.stages.ops.prune import PruneNetwork
from stillhouse.spaces.compression.pruning import Scope, check_prunable, narrowest
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice, Uniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network


class Pruning(Tuned):
    """What is taken out, and how it is tuned afterwards."""

    how: Literal["channels", "weights"] = knob(
        "channels",
        "channels, with all that reads them, which makes it faster; or single weights, as zeros",
        Choice(("channels", "weights")),
    )
    sparsity: float = knob(0.5, "share that is taken out", Uniform(0.1, 0.9), gt=0.0, lt=1.0)
    scope: Scope = knob(
        "layer",
        "of weights: the smallest of each layer, or of the network",
        Choice(("layer", "network")),
    )
    recalibrate: int = knob(20, "training batches of 256 for statistics", ge=0)


class Prune(Pruning, Compressed):
    """An entry that prunes a network; it needs the packages of the extra ``compress``."""

    package = "torch_pruning"

    def work(self, began: Stage, data: DataConfig) -> PruneNetwork:
        if (spec := origin(began)) is not None:
            about = facts(data)
            sketch = spec.sketch(about.shape, about.classes)
            check_prunable(sketch)
            if began.work.kind == "train" and not began.work.goes_on:
                self._check_room(began.label, sketch)
        return PruneNetwork(
            how=self.how, sparsity=self.sparsity, scope=self.scope, recalibrate=self.recalibrate
        )

    def _check_room(self, label: str, sketch: Network) -> None:
        """Before anything is trained: something stays of every layer that has channels."""
        path, count = narrowest(sketch)
        if self.how == "channels" and count * (1 - self.sparsity) < 1:
            message = (
                f"{self.sparsity:g} would leave nothing of {label}'s {path}, which has "
                f"{count} channels; take at most {1 - 1 / count:.2f}"
            )
            raise ConfigError([Problem("sparsity", message)])
