"""``do: compress``: prune and quantise a network, in an order that can be searched.

The original network teaches in the fine-tuning after every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.expansion.compression import CompressionConfig
from stillhouse.search.stages.prune import Prune, PruningConfig
from stillhouse.search.stages.quantise import Quantise, QuantisingConfig
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Domain
from stillhouse.spaces.config.problems import ConfigError, Problem

Step = Literal["prune", "quantise"]
STEP_CONFIGS: Mapping[Step, type[CompressionConfig]] = {"prune": Prune, "quantise": Quantise}
ORDERS = (("prune", "quantise"), ("quantise", "prune"))
_PREVIOUS_STEP = "the step before"
"""Name of the previous step among the dependencies of a step."""


class Compress(StageConfig):
    """An entry that compresses a network in several steps."""

    start: str = setting(
        ..., "the entry whose network is compressed, and which teaches the fine-tuning"
    )
    order: tuple[Step, ...] = setting(ORDERS[0], "order of the steps", Choice(ORDERS))
    prune: PruningConfig = setting(PruningConfig(), "settings of do: prune")
    quantise: QuantisingConfig = setting(QuantisingConfig(), "settings of do: quantise")

    def dependencies(self) -> tuple[str, ...]:
        return (self.start,)

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        if not self.order or len(set(self.order)) < len(self.order):
            message = f"needs prune, quantise or both, each once, found {list(self.order)}"
            raise ConfigError([Problem("order", message)])
        expanded = expanded_dependencies[self.start]
        for number, step in enumerate(self.order, start=1):
            label = name if number == len(self.order) else f"{name}/{step}"
            step_dependencies = {
                self.start: expanded_dependencies[self.start],
                _PREVIOUS_STEP: expanded,
            }
            try:
                expanded = self.step_config(step).expand(label, step_dependencies, data)
            except ConfigError as error:
                raise _under_step(error, step) from None
        return expanded

    def step_config(self, step: Step) -> CompressionConfig:
        """One step as an entry of its own kind."""
        settings = self.prune if step == "prune" else self.quantise
        step_settings = {field: getattr(settings, field) for field in type(settings).model_fields}
        shared_settings: dict[str, Any] = {
            "start": _PREVIOUS_STEP,
            "teachers": (self.start,),
            "seed": self.seed,
        }
        return STEP_CONFIGS[step](do=step, **shared_settings, **step_settings)

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("prune" | "quantise" as step, *rest) if rest:
                return self.step_config(step).declared_domain(tuple(rest))
        return type(self).search_space().get(".".join(path))


def _under_step(error: ConfigError, step: Step) -> ConfigError:
    """The problems of a step with their paths in the entry; all steps share ``start``."""
    shared_fields = {"do", "start"}
    paths = {
        problem.path: problem.path if problem.path in shared_fields else f"{step}.{problem.path}"
        for problem in error.problems
    }
    return ConfigError(
        [Problem(paths[problem.path], problem.message) for problem in error.problems]
    )
