"""How alike a network takes its classes to be, read from the weights of its last layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.objective.method import Pair
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.modules.subclasses import before_classes, subclasses_of


def similarities(pair: Pair) -> Tensor:
    """Cosines between the teachers' class weights: [teachers, classes, classes], 1 on diagonals.

    Of a class that is split into subclasses, the mean of their weights.

    Raises:
        ConfigError: a teacher does not end in a linear layer with one row a class.
    """
    return torch.stack([_cosines(teacher, i, pair) for i, teacher in enumerate(pair.teachers, 1)])


def _cosines(teacher: Network, number: int, pair: Pair) -> Tensor:
    head, parts = teacher.blocks[before_classes(teacher)], subclasses_of(teacher)
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != pair.classes * parts:
        found = f"one of {linear[-1].out_features} rows" if linear else "none"
        raise ConfigError(
            f"reads class weights from a linear layer of {pair.classes * parts} rows in the last "
            f"block; teacher {number} has {found}; take a teacher of another family"
        )
    rows = linear[-1].weight.detach().reshape(pair.classes, parts, -1)
    directions = F.normalize(rows.mean(dim=1), dim=1)
    return directions @ directions.T
