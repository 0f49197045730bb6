"""Variational: the student's features have high mutual information with the teacher's.

    L     = mean_i sum_l mean_{b,c,h,w} ((t_il - mu_il(s_l))^2 / v_il[c] + log v_il[c]) / 2
    v[c]  = softplus(a[c]) + 1e-5

-L is a lower bound of the mutual information between s_l [B, C_s, H, W] and t_il [B, C_t, H, W], up
to a constant. L is the negative log likelihood in nats (less log(2 pi) / 2) of t under a Gaussian
and can be negative. The larger map is averaged down to the smaller height and width. The mean mu is
three 1x1 convolutions C_s -> C_t -> C_t -> C_t with ReLUs between them. The variance v has one
number for each channel. Both are trained with the student. ``bias: false`` omits the convolutions'
biases, as published code does. The mean runs over teachers i, the sum over pairs l.

Ahn et al. 2019, "Variational information distillation for knowledge transfer", section 2.
Elements are averaged, as the published weight (1) expects. v starts at 5.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.objective.method import Preset
from stillhouse.methods.core.objective.taps import (
    FeatureConfig,
    FeatureMethod,
    FeaturePair,
    TapPlacement,
    match_sizes,
)
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice

_MIN_VARIANCE = 1e-5
_INITIAL_VARIANCE = 5.0


class Variational(FeatureMethod):
    """Negative log likelihood of the teacher's features given the student's."""

    class Config(FeatureConfig):
        """Settings of :class:`Variational`."""

        weight: float = FeatureConfig.weight_setting(1.0, 0.01, 10.0)
        at: TapPlacement = FeatureConfig.placement_setting("stages", "last", "stages")
        bias: bool = setting(
            True, "whether the mean's convolutions have biases", Choice((True, False))
        )
        added_later: ClassVar[frozenset[str]] = frozenset({"bias"})

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 1.0, "at": "stages", "bias": False},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        )
    }

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        """The Gaussian of one pair."""
        return _Gaussian(*feature_pair.channels, self.config.bias)

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C_s, H, W] and [B, C_t, H, W], of any sizes."""
        student, teacher = match_sizes(student, teacher)
        mean, variance = connector(student)
        terms: Tensor = (teacher - mean).square() / variance + variance.log()
        return terms.mean() / 2


class _Gaussian(nn.Module):
    """The teacher's map given the student's: a mean per element, a variance per channel."""

    def __init__(self, student: int, teacher: int, bias: bool) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1, bias=bias),
        )
        raw = math.log(math.expm1(_INITIAL_VARIANCE - _MIN_VARIANCE))
        self.raw_variance = nn.Parameter(torch.full((teacher, 1, 1), raw))

    def forward(self, student: Tensor) -> tuple[Tensor, Tensor]:
        """The mean [B, C_t, H, W] and the variance [C_t, 1, 1]."""
        return self.mean(student), F.softplus(self.raw_variance) + _MIN_VARIANCE
