"""Distilled examples, and the training of a network on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.synthesis.distilling.unroll import require_no_batch_norm
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.modules.text_layers import without_fused_lstm


class DistilledSet(NamedTuple):
    """Examples that replace a training split, in the order of the steps."""

    images: Tensor
    """[N, *shape]; 0..1 is the range of a data set's images, and these may exceed it."""
    labels: Tensor
    """[N, classes], float: the weight of each class."""
    rates: Tensor
    """[S * E]: the size of every step; a step has N / S examples."""


def train_on_distilled(network: Network, distilled: DistilledSet, steps: int) -> None:
    """Train in place with the rate of each step; the passes repeat the ``steps``.

    Plain gradient descent, w <- w - rate * grad, on cross entropy with soft labels (Sucholutsky
    and Schonlau 2021, algorithm 1); dropout is off.

    Raises:
        ConfigError: the network has batch norm.
    """
    require_no_batch_norm(network)
    network.eval()
    weights = list(network.parameters())
    batches = list(zip(distilled.images.chunk(steps), distilled.labels.chunk(steps), strict=True))
    for i, rate in enumerate(distilled.rates):
        images, labels = batches[i % steps]
        with without_fused_lstm(network):
            loss = F.cross_entropy(network(images, ()).logits, labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight.sub_(rate * gradient)
