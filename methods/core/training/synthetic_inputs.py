"""What a teacher looks at where there are no images: noise, and activations drawn for its norms.

Neighbourhoods are shallow, so they learn from such inputs where a whole network does not (Shao et
al. 2020, zero-shot distillation). What noise lacks are the moments that activations have on real
images, and those the teacher's batch norms remember.
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
"""What the teacher looks at while others learn from it.

``data``: training images. ``noise``: Gaussian images, normal after the teacher's normalisation.
``statistics``: activations with the moments that its batch norms have learnt.
"""

INPUTS_HELP = (
    "images; Gaussian noise; or activations drawn from the teacher's batch-norm statistics"
)


def gaussian_images(reference: Tensor, network: Network) -> Tensor:
    """Images [B, C, H, W] of the shape of ``reference``, normal after the network's normalisation.

    Drawn from torch's global generator; nothing but the shape is taken from ``reference``.
    """
    noise = torch.randn(reference.shape, device=reference.device)
    return noise * network.std + network.mean


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """All batch norms inside."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def blocks_with_batch_statistics(network: Network, stop: int) -> nn.Sequential:
    """Copies of the first ``stop`` blocks whose batch norms go by the batch at hand.

    Whatever comes in, each norm's output then has mean beta and standard deviation abs(gamma) in
    every channel, as it has on the images that the running statistics were taken over. So what
    comes out for Gaussian images are activations drawn from those statistics. In eval mode.

    Raises:
        ConfigError: the network has no batch norm.
    """
    require_batch_norm(network)
    blocks = copy.deepcopy(network.span(0, stop)).eval()
    for norm in batch_norms(blocks):
        norm.running_mean = norm.running_var = None
    return blocks


def require_batch_norm(network: Network) -> None:
    """Refuse a network from whose statistics nothing can be drawn.

    Raises:
        ConfigError: it has no batch norm.
    """
    if not batch_norms(network):
        message = "statistics are those of batch norms, and the teacher has none; use noise or data"
        raise ConfigError([Problem("inputs", message)])
