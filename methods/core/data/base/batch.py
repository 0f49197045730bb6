"""One batch of examples, as the loop and the methods see it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B examples on the training device."""

    images: Tensor
    """[B, channels, height, width], float in 0..1, augmented, not normalised; of texts, word
    vectors [B, dimensions, words, 1]."""
    labels: Tensor
    """[B], int64; where a stage distilled the data, [B, classes] of float."""
    indices: Tensor
    """[B], int64: each example's place in the training split."""
