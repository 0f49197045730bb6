"""Hints: the student's features are the teacher's, one by one.

    L = mean_i sum_l mean_{b,c,h,w} (r_il(s_l) - t_il)^2

s_l [B, C_s, H, W] and t_il [B, C_t, H, W] are paired maps; r_il is the regressor, learnt along.
The mean runs over teachers i, the sum over pairs l.

``regressor: linear``: the larger map is averaged down to the smaller one's height and width, and
r_il is a 1x1 convolution C_s -> C_t, or nothing where C_s = C_t. ``regressor: unit``: a convolution
that gives the teacher's map in channels and size, then batch norm and ReLU, for all pairs.

Romero et al. 2015, "FitNets: hints for thin deep nets", section 2.2, with one hint in the middle of
the network; the square is averaged, not halved and summed, as the published weight (100) expects.
``unit`` is the regressor of Tian et al. 2020, to which that weight belongs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

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
from stillhouse.spaces.config.domains import Choice, LogUniform


class Hints(FeatureMethod):
    """Mean squared error between paired features."""

    class Config(FeatureConfig):
        """Settings of :class:`Hints`."""

        weight: float = setting(
            100.0, "share of this method in the summed loss", LogUniform(1.0, 1000.0), ge=0.0
        )
        at: TapPlacement = setting(
            "middle", "which features are compared", Choice(("last", "middle", "stages"))
        )
        regressor: Literal["linear", "unit"] = setting(
            "linear", "what translates the student's map", Choice(("linear", "unit"))
        )
        added_later: ClassVar[frozenset[str]] = frozenset({"regressor"})

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 100.0, "at": "middle", "regressor": "unit"},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        ),
    }
    zero_when_equal = True

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        """The regressor r."""
        student_channels, teacher_channels = (
            feature_pair.student_shape[0],
            feature_pair.teacher_shape[0],
        )
        if self.config.regressor == "unit":
            return nn.Sequential(
                _resizing_convolution(feature_pair), nn.BatchNorm2d(teacher_channels), nn.ReLU()
            )
        return (
            nn.Identity()
            if student_channels == teacher_channels
            else nn.Conv2d(student_channels, teacher_channels, 1)
        )

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C_s, H, W] and [B, C_t, H, W], of any sizes."""
        if self.config.regressor == "unit":
            return F.mse_loss(*match_sizes(connector(student), teacher))
        student, teacher = match_sizes(student, teacher)
        return F.mse_loss(connector(student), teacher)


def _resizing_convolution(feature_pair: FeaturePair) -> nn.Module:
    """From the student's map to the teacher's size: down or up by two, or by the kernel's width.

    Where the teacher's map is larger, but not twice as large, a 1x1 convolution keeps the size.
    """
    (student_channels, height, width), (teacher_channels, *size) = (
        feature_pair.student_shape,
        feature_pair.teacher_shape,
    )
    if [height, width] == [2 * n for n in size]:
        return nn.Conv2d(student_channels, teacher_channels, 3, stride=2, padding=1)
    if [2 * height, 2 * width] == size:
        return nn.ConvTranspose2d(student_channels, teacher_channels, 4, stride=2, padding=1)
    if height >= size[0] and width >= size[1]:
        return nn.Conv2d(
            student_channels, teacher_channels, (1 + height - size[0], 1 + width - size[1])
        )
    return nn.Conv2d(student_channels, teacher_channels, 1)
