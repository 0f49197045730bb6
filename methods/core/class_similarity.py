"""How alike a network takes its classes to be, read from the weights of its last layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.method import Pair
from spaces.network import Network
from spaces.problem import ConfigError


def similarities(pair: Pair) -> Tensor:
    """Cosines between the teachers' class weights: [teachers, classes, classes], 1 on diagonals.

    Raises:
        ConfigError: a teacher does not end in a linear layer with one row a class.
    """
    return torch.stack([_cosines(teacher, i, pair) for i, teacher in enumerate(pair.teachers, 1)])


def _cosines(teacher: Network, number: int, pair: Pair) -> Tensor:
    last = teacher.blocks[teacher.names[-1]]
    linear = [module for module in last.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != pair.classes:
        found = f"one of {linear[-1].out_features} rows" if linear else "none"
        raise ConfigError(
            f"reads class weights from a linear layer of {pair.classes} rows in the last block; "
            f"teacher {number} has {found}; take a teacher of another family"
        )
    directions = F.normalize(linear[-1].weight.detach(), dim=1)
    return directions @ directions.T
