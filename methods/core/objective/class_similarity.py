"""How alike a network takes its classes to be, read from the weights of its last layer."""

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

    Of a class that is split into subclasses, the mean of their weights.

    Raises:
        ConfigError: a teacher does not end in a linear layer with one row a class.
    """
    return torch.stack(
        [
            _class_weight_cosines(teacher, i, context)
            for i, teacher in enumerate(context.teachers, 1)
        ]
    )


def _class_weight_cosines(teacher: Network, number: int, context: BuildContext) -> Tensor:
    head, subclasses = teacher.blocks[subclass_logits_block(teacher)], num_subclasses(teacher)
    linear_layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if not linear_layers or linear_layers[-1].out_features != context.classes * subclasses:
        layer_description = (
            f"one of {linear_layers[-1].out_features} rows" if linear_layers else "none"
        )
        raise ConfigError(
            f"reads class weights from a linear layer of {context.classes * subclasses} rows in the last "
            f"block; teacher {number} has {layer_description}; take a teacher of another family"
        )
    class_weights = linear_layers[-1].weight.detach().reshape(context.classes, subclasses, -1)
    directions = F.normalize(class_weights.mean(dim=1), dim=1)
    return directions @ directions.T
