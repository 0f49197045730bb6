"""Factors: one map of the student explains the maps of several teachers, each in its own terms.

    L = mean_i sum_l mean_b || t_il / ||t_il||_2 - k_il(s_l) / ||k_il(s_l)||_2 ||_1

s_l [B, C_s, H, W] and t_il [B, C_t, H, W] are paired maps, the larger of them averaged down to the
smaller one's height and width. Norms run over all C_t * H * W elements of one image. k_il is the
translator of teacher i: three 3x3 convolutions C_s -> C_s -> C_t -> C_t, each with batch norm and
leaky ReLU (0.1), learnt along; one for all teachers would only meet their average.

Park and Kwak 2020, "FEED: feature-level ensemble for knowledge distillation", parallel FEED; the
last map is compared. The sum over elements is the norm of the paper. Code for factor transfer
takes their mean, with weights of 200 to 1000, between factors of half the channels that a
paraphraser makes; maps here have no paraphraser, so no preset claims those weights. For maps of
64 x 8 x 8 a mean at 1000 is a sum at 1000 / 4096 = 0.25, the default. The mean over teachers keeps
a weight good for any number of them (the paper sums).
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
from stillhouse.spaces.config.domains import Choice, Integers, LogUniform


class Factors(FeatureMethod):
    """Absolute difference of normalised maps, after a translator for each teacher."""

    class Config(FeatureConfig):
        """Settings of :class:`Factors`."""

        weight: float = setting(
            0.25, "share of this method in the summed loss", LogUniform(0.01, 10.0), ge=0.0
        )
        at: TapPlacement = setting(
            "last", "which features are compared", Choice(("last", "stages"))
        )
        teachers: int = setting(1, TEACHERS_HELP, Integers(1, 5), ge=1)
        added_later: ClassVar[frozenset[str]] = frozenset({"teachers"})

        def requirements(self) -> tuple[TeacherRequirement, ...]:
            return (SeveralTeachers(self.teachers),)

    config: Config

    def connector(self, feature_pair: FeaturePair) -> nn.Module:
        """The translator k of one teacher."""
        student_channels, teacher_channels = (
            feature_pair.student_shape[0],
            feature_pair.teacher_shape[0],
        )
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
