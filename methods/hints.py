"""Hints: the student's features are the teacher's, one by one.

    L = mean_i sum_l mean_{b,c,h,w} (r_il(s_l) - t_il)^2

s_l [B, C_s, H, W] and t_il [B, C_t, H, W] are paired maps, the larger of them averaged down to the
smaller one's height and width; r_il is a 1x1 convolution C_s -> C_t, learnt along, and nothing
where C_s = C_t. The mean runs over teachers i, the sum over pairs l.

Romero et al. 2015, "FitNets: hints for thin deep nets", section 2.2, with one hint in the middle of
the network; the square is averaged, not halved and summed, as the published weight (100) expects.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from methods.core.method import Preset
from methods.core.taps import At, FeatureConfig, FeatureMethod, FeaturePair, same_size
from spaces.config import knob
from spaces.domain import Choice, LogUniform


class Hints(FeatureMethod):
    """Mean squared error between paired features."""

    class Config(FeatureConfig):
        """Settings of :class:`Hints`."""

        weight: float = knob(
            100.0, "share of this method in the summed loss", LogUniform(1.0, 1000.0), ge=0.0
        )
        at: At = knob("middle", "which features are compared", Choice(("last", "middle", "stages")))

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 100.0},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        ),
    }
    zero_when_equal = True

    def connector(self, found: FeaturePair) -> nn.Module:
        """The regressor r, where the teacher has another number of channels."""
        mine, theirs = found.student_shape[0], found.teacher_shape[0]
        return nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, 1)

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C_s, H, W] and [B, C_t, H, W], of any sizes."""
        student, teacher = same_size(student, teacher)
        return F.mse_loss(connector(student), teacher)
