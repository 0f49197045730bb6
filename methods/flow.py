"""Flow: the student's features change from stage to stage as the teacher's do.

    L = sum_l mean_bij (G_l[b, i, j](student) - G_l[b, i, j](teacher))^2
    G_l[b, i, j] = mean_p F_l[b, i, p] * F_l+1[b, j, p]

F_l [B, C, H, W] are maps at the ends of consecutive stages. The larger one is averaged down to the
smaller; p are its positions. The paper sums over i and j; the mean makes one weight fit every
width. The paper needs equal channels in both networks. Here a linear map of the student's channels
is trained with the student if they differ, and dropped at the end. Losses are averaged over
teachers.

Yim, Joo, Bae and Kim 2017, "A gift from knowledge distillation", sections 3.2 and 3.3. In the paper
this loss is a training stage of its own, before the others. Tian et al. 2020 compare it so: 30
epochs with weight 1 over maps that include the stem, then cross entropy. No published weight
belongs to a term beside others, so there is no preset.
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
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


class Flow(FeatureMethod):
    """Squared difference of the networks' Gram matrices between consecutive stages."""

    class Config(FeatureConfig):
        """Settings of :class:`Flow`."""

        weight: float = FeatureConfig.weight_setting(50.0, 0.5, 500.0)
        at: TapPlacement = setting("stages", "which features are compared; two or more")

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
        student_channels, teacher_channels = feature_pair.channels
        if student_channels == teacher_channels:
            return nn.Identity()
        return nn.Conv2d(student_channels, teacher_channels, 1, bias=False)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From the features of the student and of every teacher."""
        return self.mean_over_teachers(
            self._teacher_loss(i, student, teacher) for i, teacher in enumerate(teachers)
        )

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
