"""Attention: the student looks where the teacher looks.

    L    = mean_i sum_l mean_{b,h,w} (Q(s_l) - Q(t_il))^2
    A(F) = mean_c F[b, c, h, w]^2,    Q(F) = A(F) / ||A(F)||_2 over the positions of one image

A [B, H, W] is where a map has its activations; the larger of two is averaged down to the smaller
one's height and width before Q. The mean runs over teachers i, the sum over pairs l; no weights
of its own, whatever the numbers of channels. A map of one pixel has Q = 1 and is left out.

Zagoruyko and Komodakis 2017, "Paying more attention to attention", section 3.1 with p = 2; the
square is averaged over positions, as in the authors' code, which the published weight (1000) fits.
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
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform


class Attention(FeatureMethod):
    """Mean squared error between normalised maps of activation."""

    class Config(FeatureConfig):
        """Settings of :class:`Attention`."""

        weight: float = setting(
            1000.0, "share of this method in the summed loss", LogUniform(10.0, 10000.0), ge=0.0
        )
        at: TapPlacement = setting(
            "stages", "which features are compared", Choice(("last", "stages"))
        )

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 1000.0, "at": "stages"},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        ),
    }
    zero_when_equal = True
    min_pixels = 2

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C, H, W] of any sizes."""
        student_attention, teacher_attention = match_sizes(
            attention_map(student), attention_map(teacher)
        )
        return F.mse_loss(
            unit_vectors(student_attention.flatten(1)), unit_vectors(teacher_attention.flatten(1))
        )


def attention_map(features: Tensor) -> Tensor:
    """A: [B, H, W] from [B, C, H, W]."""
    return features.square().mean(dim=1)
