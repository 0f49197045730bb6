"""The heads of a teacher, with the weights of their losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from stillhouse.methods.core.objective.soft_labels import softened_log_probs
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.network import Network, Output, head_tap

OUTPUT_HEAD = "output"
"""The name of the teacher's own output among its heads."""


def weighted_head_log_probs(
    output: Output, head_weights: Mapping[str, float], t: float
) -> Iterator[tuple[Tensor, float]]:
    """The softened log probabilities and the weight of every head with a weight above 0."""
    for name, weight in head_weights.items():
        logits = output.logits if name == OUTPUT_HEAD else output.features[head_tap(name)]
        yield softened_log_probs(logits.detach(), t), weight


def select_head_weights(weights: Mapping[str, float], teacher: Network) -> dict[str, float]:
    """The weights above 0, by name of the head."""
    names = (*teacher.heads, OUTPUT_HEAD)
    if len(names) == 1:
        raise ConfigError("a teacher has no heads; give it some with an entry `do: heads`")
    problems = [
        Problem("weights", unknown_message("head", n, names)) for n in weights if n not in names
    ]
    weights_by_head = {name: weights.get(name, 1.0) for name in names}
    if not problems and not any(weights_by_head.values()):
        problems = [Problem("weights", "every head has weight 0; raise one of them")]
    if problems:
        raise ConfigError(problems)
    return {name: weight for name, weight in weights_by_head.items() if weight > 0}
