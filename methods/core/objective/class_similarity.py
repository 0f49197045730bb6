"""Similarity of classes, from the weights of a network's last layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.modules.subclasses import num_subclasses, subclass_logits_block


def class_similarities(context: BuildContext) -> Tensor:
    """Cosines between the teachers' class weights: [teachers, classes, classes], 1 on diagonals.

    A class that is split into subclasses has the mean of their weights.

    Raises:
        ConfigError: a teacher does not end in a linear layer with one row for each class.
    """
    teachers = enumerate(context.teachers, start=1)
    return torch.stack([_class_weight_cosines(teacher, i, context) for i, teacher in teachers])


def _class_weight_cosines(teacher: Network, number: int, context: BuildContext) -> Tensor:
    head, subclasses = teacher.blocks[subclass_logits_block(teacher)], num_subclasses(teacher)
    linear_layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    rows = context.classes * subclasses
    if not linear_layers or linear_layers[-1].out_features != rows:
        actual = f"one of {linear_layers[-1].out_features} rows" if linear_layers else "none"
        raise ConfigError(
            f"reads class weights from a linear layer of {rows} rows in the last block; "
            f"teacher {number} has {actual}; take a teacher of another family"
        )
    class_weights = linear_layers[-1].weight.detach().reshape(context.classes, subclasses, -1)
    directions = F.normalize(class_weights.mean(dim=1), dim=1)
    return directions @ directions.T
