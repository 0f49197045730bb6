"""Hints: the student's features equal the teacher's, element by element.

    L = mean_i sum_l mean_{b,c,h,w} (r_il(s_l) - t_il)^2

s_l [B, C_s, H, W] and t_il [B, C_t, H, W] are paired maps; r_il is the regressor, trained with the
student. The mean runs over teachers i, the sum over pairs l.

``regressor: linear``: the larger map is averaged down to the smaller height and width. r_il is a
1x1 convolution C_s -> C_t, or an identity if C_s = C_t. ``regressor: unit``: every pair has a
convolution to the teacher's channels and size, batch norm and ReLU.

Romero et al. 2015, "FitNets: hints for thin deep nets", section 2.2, with one hint in the middle of
the network. The paper halves and sums the square; the mean fits the published weight 100.
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
from stillhouse.spaces.config.domains import Choice


class Hints(FeatureMethod):
    """Mean squared error between paired features."""

    class Config(FeatureConfig):
        """Settings of :class:`Hints`."""

        weight: float = FeatureConfig.weight_setting(100.0, 1.0, 1000.0)
        at: TapPlacement = FeatureConfig.placement_setting("middle", "last", "middle", "stages")
        regressor: Literal["linear", "unit"] = setting(
            "linear", "the layers on the student's map", Choice(("linear", "unit"))
        )
        added_later: ClassVar[frozenset[str]] = frozenset({"regressor"})

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 100.0, "at": "middle", "regressor": "unit"},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        )
    }
    zero_when_equal = True

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        """The regressor r."""
        student_channels, teacher_channels = feature_pair.channels
        if self.config.regressor == "unit":
            return nn.Sequential(
                _resizing_convolution(feature_pair), nn.BatchNorm2d(teacher_channels), nn.ReLU()
            )
        if student_channels == teacher_channels:
            return nn.Identity()
        return nn.Conv2d(student_channels, teacher_channels, 1)

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C_s, H, W] and [B, C_t, H, W], of any sizes."""
        if self.config.regressor == "unit":
            return F.mse_loss(*match_sizes(connector(student), teacher))
        student, teacher = match_sizes(student, teacher)
        return F.mse_loss(connector(student), teacher)


def _resizing_convolution(feature_pair: FeaturePair) -> nn.Module:
    """From the student's size to the teacher's: a factor of two, or a kernel of the difference.

    A 1x1 convolution keeps the size if the teacher's map is larger by another factor.
    """
    student_channels, height, width = feature_pair.student_shape
    teacher_channels, *size = feature_pair.teacher_shape
    if [height, width] == [2 * n for n in size]:
        return nn.Conv2d(student_channels, teacher_channels, 3, stride=2, padding=1)
    if [2 * height, 2 * width] == size:
        return nn.ConvTranspose2d(student_channels, teacher_channels, 4, stride=2, padding=1)
    if height >= size[0] and width >= size[1]:
        kernel = (1 + height - size[0], 1 + width - size[1])
        return nn.Conv2d(student_channels, teacher_channels, kernel)
    return nn.Conv2d(student_channels, teacher_channels, 1)
