"""Flow: between two places of the student features change as they do between the teacher's.

    L = sum_l mean_bij (G_l[b, i, j](student) - G_l[b, i, j](teacher))^2
    G_l[b, i, j] = mean_p F_l[b, i, p] * F_l+1[b, j, p]

F_l [B, C, H, W] are maps at consecutive places (ends of stages), the larger one averaged down to
the smaller; p are its positions. The published sum over i and j is a mean here, so that a weight
serves every width. Where the student has other channels than the teacher, which the paper does not
allow, a linear map of the student's channels is trained along and dropped at the end. Several
teachers: the mean of their losses.

Yim, Joo, Bae and Kim 2017, "A gift from knowledge distillation", sections 3.2 and 3.3, learnt
beside the other terms. In the paper it is a stage before them, and so it is in the comparison of
Tian et al. 2020: 30 epochs of weight 1 over maps that include the stem, then cross entropy alone.
No published weight belongs to the form here, so there is no preset; the default is a choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.methods.core.objective.taps import (
    FeatureConfig,
    FeatureMethod,
    FeaturePair,
    TapPlacement,
    match_sizes,
)
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


class Flow(FeatureMethod):
    """Squared difference of the networks' Gram matrices between consecutive places."""

    class Config(FeatureConfig):
        """Settings of :class:`Flow`."""

        weight: float = setting(
            50.0, "share of this method in the summed loss", LogUniform(0.5, 500.0), ge=0.0
        )
        at: TapPlacement = setting("stages", "the places between which features flow; two or more")

    config: Config
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        if (min_places := min(len(feature_pairs) for feature_pairs in self.pairs)) < 2:
            message = (
                f"compares what happens between places and needs 2 or more, found {min_places}"
            )
            raise ConfigError([Problem("at", f"{message}; name blocks, or use stages")])

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        student_channels, teacher_channels = (
            feature_pair.student_shape[0],
            feature_pair.teacher_shape[0],
        )
        return (
            nn.Identity()
            if student_channels == teacher_channels
            else nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        )

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From the features of the student and of every teacher."""
        losses = [self._teacher_loss(i, student, teacher) for i, teacher in enumerate(teachers)]
        return torch.stack(losses).mean()

    def _teacher_loss(self, number: int, student: Output, teacher: Output) -> Tensor:
        feature_pairs = self.pairs[number]
        connectors = cast(nn.ModuleList, self.connectors[number])
        student_maps = [
            c(student.features[p.student]) for p, c in zip(feature_pairs, connectors, strict=True)
        ]
        teacher_maps = [teacher.features[p.teacher] for p in feature_pairs]
        pairs = zip(pairwise(student_maps), pairwise(teacher_maps), strict=True)
        return torch.stack(
            [F.mse_loss(gram_matrix(*own), gram_matrix(*other)) for own, other in pairs]
        ).sum()


def gram_matrix(one: Tensor, other: Tensor) -> Tensor:
    """[B, C1, C2] from maps [B, C1, H, W] and [B, C2, H', W']: mean products over positions."""
    one, other = (x.flatten(2) for x in match_sizes(one, other))
    return one @ other.transpose(1, 2) / one.shape[2]
