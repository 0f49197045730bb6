"""Classifier: a network that returns only logits, for export."""

from __future__ import annotations

from torch import Tensor, nn

from stillhouse.spaces.modules.network import Network


class Classifier(nn.Module):
    """Images in 0..1 [N, channels, height, width] to logits [N, classes].

    A network for texts takes word vectors [N, dimensions, words, 1]. Words and their vectors
    belong to the data set, not to the model.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images, ()).logits
        return logits
