"""Similarities: the student finds the same examples similar as the teacher does.

    L = sum_l 1 / B^2 * |G(student_l) - G(teacher_l)|_F^2
    G = A A^T with every row divided by its length,  A [B, C * H * W]

A is a feature map, flattened without pooling; shapes may differ between the networks. A row of
zeros stays zero. Losses are averaged over teachers.

Tung and Mori 2019, "Similarity-preserving knowledge distillation", section 3, with the activations
of the last layer. The paper's weight is 3000.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from stillhouse.methods.core.objective.embedding import unit_vectors
from stillhouse.methods.core.objective.method import Preset
from stillhouse.methods.core.objective.taps import FeatureConfig, FeatureMethod, TapPlacement
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice


class Similarities(FeatureMethod):
    """Squared difference of the similarity matrices of a batch."""

    class Config(FeatureConfig):
        """Settings of :class:`Similarities`."""

        weight: float = FeatureConfig.weight_setting(3000.0, 30.0, 30000.0)
        at: TapPlacement = setting(
            "last", "the blocks compared", Choice(("last", "middle", "stages"))
        )

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 3000.0, "at": "last"},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        )
    }
    zero_when_equal = True

    def distance(self, student: Tensor, teacher: Tensor, connector: nn.Module) -> Tensor:
        """From maps [B, C, H, W] of any two shapes."""
        return (example_similarities(student) - example_similarities(teacher)).square().mean()


def example_similarities(features: Tensor) -> Tensor:
    """[B, B]: inner products of all examples, each row scaled to length 1."""
    flat = features.flatten(1)
    return unit_vectors(flat @ flat.T)
