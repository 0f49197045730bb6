"""Classifier: a network as those see it who only want answers."""

from __future__ import annotations

from torch import Tensor, nn

from stillhouse.spaces.modules.network import Network


class Classifier(nn.Module):
    """Images in 0..1 [N, channels, height, width] to logits [N, classes], and nothing else.

    A network for texts is served what it was taught on, word vectors [N, dimensions, words, 1]:
    words and vectors belong to the data set
    (``stillhouse.methods.core.data.facts.embedding_table``), and are not in the model.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images, ()).logits
        return logits
