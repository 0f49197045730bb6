"""Calibration of the activation ranges of a quantised network."""

from __future__ import annotations

import torch

from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.spaces.compression.quantisation import calibration
from stillhouse.spaces.modules.network import Network


@torch.no_grad()
def calibrate_activations(
    network: Network, data: Dataset, device: torch.device | str, batches: int = 20
) -> None:
    """Measure activation ranges on the first ``batches`` of 256 training images, in place.

    The images are not augmented, and the network computes in float. The network must be on
    ``device``; it is left in eval mode.
    """
    network.eval()
    stream = data.batches("train", batch_size=256, device=device)
    with calibration(network):
        for _, batch in zip(range(batches), stream, strict=False):
            network(batch.images, ())
