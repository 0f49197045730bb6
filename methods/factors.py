"""Factors: one translator for each teacher maps the student's features to the teacher's.

    L = mean_i sum_l mean_b || t_il / ||t_il||_2 - k_il(s_l) / ||k_il(s_l)||_2 ||_1

s_l [B, C_s, H, W] and t_il [B, C_t, H, W] are paired maps. The larger one is averaged down to the
smaller height and width. Norms run over all C_t * H * W elements of one image. k_il is the
translator of teacher i: three 3x3 convolutions C_s -> C_s -> C_t -> C_t, each with batch norm and
leaky ReLU (0.1). It is trained with the student. A common translator would learn the average of the
teachers.

Park and Kwak 2020, "FEED: feature-level ensemble for knowledge distillation", parallel FEED, which
compares the last map and sums over elements. Code for factor transfer takes the mean over elements,
with weights from 200 to 1000, and halves the channels by a paraphraser. There is no paraphraser
here, so no preset has these weights. For maps of 64 x 8 x 8 a mean with weight 1000 is a sum with
weight 1000 / 4096 = 0.25, the default. The paper sums over teachers; the mean makes one weight fit
any number of teachers.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stillhouse.methods.core.config.requirements import (
    TEACHERS_HELP,
    SeveralTeachers,
    TeacherRequirement,
)
from stillhouse.methods.core.objective.embedding import unit_vectors
from stillhouse.methods.core.objective.taps import (
    FeatureConfig,
    FeatureMethod,
    FeaturePair,
    TapPlacement,
    match_sizes,
)
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Integers


class Factors(FeatureMethod):
    """Absolute difference between normalised maps, with a translator for each teacher."""

    class Config(FeatureConfig):
        """Settings of :class:`Factors`."""

        weight: float = FeatureConfig.weight_setting(0.25, 0.01, 10.0)
        at: TapPlacement = FeatureConfig.placement_setting("last", "last", "stages")
        teachers: int = setting(1, TEACHERS_HELP, Integers(1, 5), ge=1)
        added_later: ClassVar[frozenset[str]] = frozenset({"teachers"})

        def requirements(self) -> tuple[TeacherRequirement, ...]:
            return (SeveralTeachers(self.teachers),)

    config: Config

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        """The translator k of one teacher."""
        student_channels, teacher_channels = feature_pair.channels
        return nn.Sequential(
            _conv_unit(student_channels, student_channels),
            _conv_unit(student_channels, teacher_channels),
            _conv_unit(teacher_channels, teacher_channels),
        )

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C_s, H, W] and [B, C_t, H, W], of any sizes."""
        student, teacher = match_sizes(student, teacher)
        student_map, teacher_map = (
            unit_vectors(x.flatten(1)) for x in (connector(student), teacher)
        )
        return (student_map - teacher_map).abs().sum(dim=1).mean()


def _conv_unit(inputs: int, outputs: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1))
