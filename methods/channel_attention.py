"""Channel attention: the student's channels weigh as much as the teacher's.

    L       = mean_i sum_l mean_{b,c} (w(k_il(s_l)) - w(t_il))^2
    w(F)[c] = mean_{h,w} F[b, c, h, w]

s_l [B, C_s, H, W] and t_il [B, C_t, H', W'] are the paired ends of stages; k_il is a 1x1
convolution C_s -> C_t without bias, batch norm and ReLU, learnt along. ``connector: needed`` has
it where C_s and C_t differ, ``always`` everywhere, as in the authors' code. The mean runs over
teachers i, the sum over pairs l.

Zhou, Zhuge, Guan and Liu 2020, "Channel distillation: channel-wise attention for knowledge
distillation", section 3. Their full method adds ``guided`` and an early decay of the teacher, which
is a schedule; for 200 epochs (0.9 at epochs 60 and 160, counted from 1):

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
from stillhouse.spaces.config.domains import Choice, LogUniform


class ChannelAttention(FeatureMethod):
    """Mean squared error between globally averaged channels."""

    class Config(FeatureConfig):
        """Settings of :class:`ChannelAttention`."""

        weight: float = setting(
            6.0, "share of this method in the summed loss", LogUniform(0.1, 100.0), ge=0.0
        )
        at: TapPlacement = setting(
            "stages", "which features are compared", Choice(("last", "stages"))
        )
        connector: Literal["needed", "always"] = setting(
            "needed", "where the student's channels are translated", Choice(("needed", "always"))
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
        """The translation k."""
        student_channels, teacher_channels = (
            feature_pair.student_shape[0],
            feature_pair.teacher_shape[0],
        )
        if student_channels == teacher_channels and self.config.connector == "needed":
            return nn.Identity()
        convolution = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels), nn.ReLU())

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C_s, H, W] and [B, C_t, H', W'], of any sizes."""
        return F.mse_loss(connector(student).mean(dim=(2, 3)), teacher.mean(dim=(2, 3)))
