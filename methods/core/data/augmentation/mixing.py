"""Mixing of every example with another one of its view, images and labels.

    mixup:   x = s * x1 + (1 - s) * x2          Zhang et al. 2018, section 2
    CutMix:  x = x1, but x2 inside a box        Yun et al. 2019, section 3.1
    y = s * one_hot(y1) + (1 - s) * one_hot(y2),  s ~ Beta(a, a)

For CutMix 1 - s is the share of the pixels inside the box. If both are on, each example has one of
them with equal probability. Teachers and student get the same mixed images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.data.base.rng import make_rng


class Mix(NamedTuple):
    """The mixing of n examples."""

    partner: Tensor
    """[n], int64: the position of the other example in the split."""
    share: Tensor
    """[n], float32: the example's own share of the label."""
    blend: Tensor
    """[n], float32: the example's own share of each pixel; 1 for CutMix."""
    box: Tensor
    """[n, 4], int64: top, left, bottom, right of the other's box; empty for mixup."""

    def to(self, device: torch.device) -> Mix:
        """The same on ``device``."""
        return Mix(*(part.to(device) for part in self))

    def select(self, examples: Tensor) -> Mix:
        """The mixing of some examples."""
        return Mix(*(part.index_select(0, examples) for part in self))


def draw_mix(
    mixup: float, cutmix: float, entropy: tuple[int, ...], examples: int, height: int, width: int
) -> Mix:
    """The mixing of a whole split of ``examples`` images, ``height`` by ``width`` pixels.

    Args:
        mixup: ``a`` of mixup's Beta distribution; 0 turns it off.
        cutmix: ``a`` of CutMix's Beta distribution; 0 turns it off.
        entropy: of the random generator: seed, view and purpose.
    """
    rng = make_rng(*entropy)
    partner = rng.permutation(examples).astype(np.int64)
    is_cutmix = rng.uniform(size=examples) < (0.5 if mixup and cutmix else float(cutmix > 0))
    alpha = np.where(is_cutmix, cutmix or 1.0, mixup or 1.0)
    own_share = rng.beta(alpha, alpha)
    centre = rng.randint(0, (height, width), (examples, 2))
    half = np.sqrt(1.0 - own_share)[:, None] * (height, width) / 2
    image_size = np.array([height, width])
    top_left = np.clip(np.round(centre - half), 0, image_size).astype(np.int64)
    bottom_right = np.clip(np.round(centre + half), 0, image_size).astype(np.int64)
    bottom_right = np.where(is_cutmix[:, None], bottom_right, top_left)
    covered = (bottom_right - top_left).prod(axis=1) / (height * width)
    share = np.where(is_cutmix, 1.0 - covered, own_share).astype(np.float32)
    blend = np.where(is_cutmix, 1.0, own_share).astype(np.float32)
    box = np.concatenate([top_left, bottom_right], axis=1)
    return Mix(*(torch.from_numpy(part) for part in (partner, share, blend, box)))


def mix_images(images: Tensor, others: Tensor, mix: Mix) -> Tensor:
    """Normalised images [B, C, H, W], float, of both -> the mixed, in the same format."""
    blend = mix.blend[:, None, None, None]
    blended = torch.lerp(others, images, blend)
    return torch.where(_box_mask(mix.box, images), others, blended)


def mix_labels(labels: Tensor, others: Tensor, mix: Mix, classes: int) -> Tensor:
    """Labels [B] or [B, classes] of both -> [B, classes], float32."""
    return torch.lerp(
        _to_soft_labels(others, classes), _to_soft_labels(labels, classes), mix.share[:, None]
    )


def _to_soft_labels(labels: Tensor, classes: int) -> Tensor:
    return labels if labels.dim() == 2 else F.one_hot(labels, classes).to(torch.float32)


def _box_mask(box: Tensor, images: Tensor) -> Tensor:
    """[B, 1, H, W]: True inside each example's box."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    row_mask = (rows >= box[:, :1]) & (rows < box[:, 2:3])
    column_mask = (columns >= box[:, 1:2]) & (columns < box[:, 3:4])
    return (row_mask[:, :, None] & column_mask[:, None, :])[:, None]
