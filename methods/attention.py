"""Attention: the student looks where the teacher looks.

    L    = mean_i sum_l mean_{b,h,w} (Q(s_l) - Q(t_il))^2
    A(F) = mean_c F[b, c, h, w]^2,    Q(F) = A(F) / ||A(F)||_2 over the positions of one image

A [B, H, W] is the mean squared activation at each position. The larger of two maps is averaged
down to the smaller height and width before Q. The mean runs over teachers i, the sum over pairs l.
The method has no weights of its own. A map of one pixel has Q = 1 and is left out.

Zagoruyko and Komodakis 2017, "Paying more attention to attention", section 3.1 with p = 2.
The square is averaged over positions, as in the authors' code; the published weight 1000 fits this.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.objective.embedding import unit_vectors
from stillhouse.methods.core.objective.method import Preset
from stillhouse.methods.core.objective.taps import (
    FeatureConfig,
    FeatureMethod,
    TapPlacement,
    match_sizes,
)


class Attention(FeatureMethod):
    """Mean squared error between normalised maps of activation."""

    class Config(FeatureConfig):
        """Settings of :class:`Attention`."""

        weight: float = FeatureConfig.weight_setting(1000.0, 10.0, 10000.0)
        at: TapPlacement = FeatureConfig.placement_setting("stages", "last", "stages")

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 1000.0, "at": "stages"},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        )
    }
    zero_when_equal = True
    min_pixels = 2

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C, H, W] of any sizes."""
        maps = match_sizes(attention_map(student), attention_map(teacher))
        student_q, teacher_q = (unit_vectors(attention.flatten(1)) for attention in maps)
        return F.mse_loss(student_q, teacher_q)


def attention_map(features: Tensor) -> Tensor:
    """A: [B, H, W] from [B, C, H, W]."""
    return features.square().mean(dim=1)
