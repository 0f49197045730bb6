"""A batch of examples."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B examples on the training device."""

    images: Tensor
    """[B, channels, height, width], float in 0..1, augmented, not normalised; for texts, word
    vectors [B, dimensions, words, 1]."""
    labels: Tensor
    """[B], int64; of distilled or mixed data, [B, classes] of float."""
    indices: Tensor
    """[B], int64: the position of each example in its split."""
