"""The embedding table: a vocabulary with a vector for each word."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stillhouse.methods.core.data.text.vocabulary import Vocabulary

_CHUNK_SIZE = 4096


@dataclass(frozen=True)
class EmbeddingTable:
    """The vocabulary and word vectors of a data set; all networks on it share them."""

    vocabulary: Vocabulary
    vectors: Tensor
    """[V, D], float32, on the CPU; row 0 (padding) is zeros."""

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise [*shape], float32, with the mean and deviation of the word vectors per dimension.

        Args:
            shape: ends with (D, L, 1).
        """
        word_vectors = self.vectors[1:]
        mean, deviation = word_vectors.mean(dim=0), word_vectors.std(dim=0, correction=0)
        samples = torch.randn(shape, generator=generator)
        return mean.view(-1, 1, 1) + deviation.view(-1, 1, 1) * samples

    def nearest_words(self, sentences: Tensor) -> list[str]:
        """The words with the nearest vectors (Euclidean) at all positions, joined by spaces.

        Args:
            sentences: [M, D, L, 1], such as distilled ones.
        """
        count, dimensions, length, _ = sentences.shape
        points = sentences.detach().float().cpu().permute(0, 2, 3, 1).reshape(-1, dimensions)
        # |x - w|^2 without |x|^2, which does not depend on the word w.
        squared_lengths = self.vectors.square().sum(dim=1)
        nearest = [
            (squared_lengths - 2 * points_chunk @ self.vectors.T).argmin(dim=1)
            for points_chunk in torch.split(points, _CHUNK_SIZE)
        ]
        ids = torch.cat(nearest).view(count, length)
        return [self.vocabulary.decode(row) for row in ids.tolist()]


def lookup(vectors: Tensor, ids: Tensor) -> Tensor:
    """Rows of ``vectors`` [V, D] for token ids [B, L]: [B, L, 1, D]."""
    rows = vectors.index_select(0, ids.flatten())
    return rows.view(*ids.shape, 1, vectors.shape[1])
