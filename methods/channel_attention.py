"""Channel attention: the student's channel means match the teacher's.

    L       = mean_i sum_l mean_{b,c} (w(k_il(s_l)) - w(t_il))^2
    w(F)[c] = mean_{h,w} F[b, c, h, w]

s_l [B, C_s, H, W] and t_il [B, C_t, H', W'] are the paired ends of stages; k_il is a 1x1
convolution C_s -> C_t without bias, batch norm and ReLU, trained with the student. With
``connector: needed`` k exists only where C_s and C_t differ. With ``always`` every pair has one, as
in the authors' code. The mean runs over teachers i, the sum over pairs l.

Zhou, Zhuge, Guan and Liu 2020, "Channel distillation: channel-wise attention for knowledge
distillation", section 3. The full method adds ``guided`` and a schedule, the early decay of the
teacher. For 200 epochs it multiplies by 0.9 at epochs 60 and 160, counted from 1:

    cross_entropy:     {schedule: {switch: {since: 60}}}
    guided:            {weight: 0.1, schedule: {switch: {since: 60}}}
    channel_attention: {weight: 6.0, schedule: {step: {milestones: [59, 159], gamma: 0.9}}}
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
)
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice


class ChannelAttention(FeatureMethod):
    """Mean squared error between globally averaged channels."""

    class Config(FeatureConfig):
        """Settings of :class:`ChannelAttention`."""

        weight: float = FeatureConfig.weight_setting(6.0, 0.1, 100.0)
        at: TapPlacement = FeatureConfig.placement_setting("stages", "last", "stages")
        connector: Literal["needed", "always"] = setting(
            "needed", "which pairs have a 1x1 convolution", Choice(("needed", "always"))
        )

    config: Config
    presets: ClassVar = {
        "zhou2020_cifar100": Preset(
            {
                "weight": 6.0,
                "at": "stages",
                "connector": "always",
                "schedule": {"step": {"milestones": [59, 159], "gamma": 0.9}},
            },
            "Zhou et al. 2020, the authors' code, CIFAR-100, 200 epochs, early decay",
            companions=("cross_entropy", "guided"),
        ),
        "zhou2020_imagenet": Preset(
            {
                "weight": 6.0,
                "at": "stages",
                "connector": "always",
                "schedule": {"step": {"milestones": [29, 59, 89], "gamma": 0.9}},
            },
            "Zhou et al. 2020, the authors' code, ImageNet, 100 epochs, early decay",
            companions=("cross_entropy", "guided"),
        ),
    }
    zero_when_equal = True

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        """The convolution k, or an identity."""
        student_channels, teacher_channels = feature_pair.channels
        if student_channels == teacher_channels and self.config.connector == "needed":
            return nn.Identity()
        convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels), nn.ReLU())

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C_s, H, W] and [B, C_t, H', W'], of any sizes."""
        return F.mse_loss(connector(student).mean(dim=(2, 3)), teacher.mean(dim=(2, 3)))
