"""Synthetic inputs of a teacher: noise, or activations with its batch-norm statistics.

Neighbourhoods are shallow and learn from such inputs; a whole network does not (Shao et al. 2020,
zero-shot distillation). Activations of noise have other means and variances than those of real
images. The teacher's batch norms store the latter.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network

InputKind = Literal["data", "noise", "statistics"]
"""The inputs of a teacher during distillation.

``data``: training images. ``noise``: Gaussian images, standard normal after the teacher's
normalisation. ``statistics``: activations with the running statistics of its batch norms.
"""

INPUTS_HELP = (
    "images; Gaussian noise; or activations drawn from the teacher's batch-norm statistics"
)


def gaussian_images(reference: Tensor, network: Network) -> Tensor:
    """Images of the shape [B, C, H, W] of ``reference``, standard normal after normalisation.

    They come from torch's global generator.
    """
    noise = torch.randn(reference.shape, device=reference.device)
    return noise * network.std + network.mean


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch norms of a module."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def blocks_with_batch_statistics(network: Network, stop: int) -> nn.Sequential:
    """Copies of the first ``stop`` blocks, in eval mode, with batch norms on batch statistics.

    For any input, the output of each norm has mean beta and standard deviation abs(gamma) in every
    channel, as on the images of the running statistics. So Gaussian images give activations with
    these statistics.

    Raises:
        ConfigError: the network has no batch norm.
    """
    require_batch_norm(network)
    blocks = copy.deepcopy(network.span(0, stop)).eval()
    for norm in batch_norms(blocks):
        norm.running_mean = norm.running_var = None
    return blocks


def require_batch_norm(network: Network) -> None:
    """Check that a network has batch norm.

    Raises:
        ConfigError: the network has no batch norm.
    """
    if not batch_norms(network):
        message = (
            "statistics need a teacher with batch norm, and this one has none; use noise or data"
        )
        raise ConfigError([Problem("inputs", message)])
