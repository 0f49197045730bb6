"""Relations: distances and angles between the embeddings of a batch match the teacher's.

    L   = distance * L_D + angle * L_A
    L_D = mean_ij  h(d_ij(student) - d_ij(teacher)),    d_ij = |e_i - e_j| / m
    L_A = mean_ijk h(c_ijk(student) - c_ijk(teacher)),  c_ijk = cos of the angle i-j-k at j
    h(x) = x^2 / 2 where |x| <= 1, else |x| - 1/2 (Huber);  m = mean of all |e_i - e_j| > 0

e [B, C] is the input of the head, averaged over positions; C may differ between the networks.
The means run over all B^2 pairs and B^3 triples, as published. An angle with a side of length 0
counts as a cosine of 0. Losses are averaged over teachers.

Park, Kim, Lu and Cho 2019, "Relational knowledge distillation", section 3.2; its weights for
classification are 25 and 50. Memory grows with B^3: 4 B^3 bytes a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.embedding import (
    EmbeddingMethod,
    pairwise_distances,
    safe_divide,
    unit_vectors,
)
from stillhouse.methods.core.objective.method import BuildContext, MethodConfig, Preset, Progress
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


class Relations(EmbeddingMethod):
    """Huber loss between the networks' distances and angles among examples."""

    class Config(MethodConfig):
        """Settings of :class:`Relations`."""

        weight: float = MethodConfig.weight_setting(1.0, 0.01, 10.0)
        distance: float = setting(25.0, "weight of the distances", LogUniform(1.0, 100.0), ge=0.0)
        angle: float = setting(50.0, "weight of the angles", LogUniform(1.0, 200.0), ge=0.0)

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 1.0, "distance": 25.0, "angle": 50.0},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
        )
    }
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        if config.distance == config.angle == 0:
            raise ConfigError("distance and angle are both 0, so nothing is compared; raise one")

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From the embeddings [B, C] of all networks."""
        student_embedding, teacher_embeddings = self.embeddings(student, teachers)
        return self.mean_over_teachers(
            self._teacher_loss(student_embedding, teacher) for teacher in teacher_embeddings
        )

    def _teacher_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        loss = student.new_zeros(())
        if self.config.distance > 0:
            distances = relative_distances(student), relative_distances(teacher)
            loss = loss + self.config.distance * F.smooth_l1_loss(*distances)
        if self.config.angle > 0:
            angles = angle_cosines(student), angle_cosines(teacher)
            loss = loss + self.config.angle * F.smooth_l1_loss(*angles)
        return loss


def relative_distances(e: Tensor) -> Tensor:
    """[B, B] distances divided by the mean of the positive ones; 0 if there are none."""
    d = pairwise_distances(e)
    positive = (d > 0).sum().clamp(min=1)
    return safe_divide(d, d.sum() / positive)


def angle_cosines(e: Tensor) -> Tensor:
    """[B, B, B]: at (j, i, k) the cosine between i - j and k - j."""
    sides = unit_vectors(e.unsqueeze(0) - e.unsqueeze(1))
    return sides @ sides.transpose(1, 2)
