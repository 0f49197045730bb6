"""Contrast: the student's embedding of an image identifies the teacher's embedding of that image.

    L = 1/2 * (mean_i -log P[i, i] + mean_i -log Q[i, i])
    P = softmax over rows of S / T,  Q = softmax over columns of S / T,  S[i, j] = s_i . t_j
    s_i = W_s e_i(student) + b_s,  t_j = W_t e_j(teacher) + b_t,  both scaled to length 1

e [B, C] is the input of the head, averaged over positions. The projections to ``width`` numbers are
trained with the student and dropped at the end. Guessing costs log B; a batch of one costs 0.
Losses are averaged over teachers; each teacher has its own projections.

Tian, Krishnan and Isola 2020, "Contrastive representation distillation", section 3.2, in its
in-batch form: the other images of the batch are the negatives, by InfoNCE (van den Oord et al.
2018). The paper's own form draws 16384 negatives of other classes from a memory of all examples.
Here there is no memory, and images of the same class count as negatives. The paper's weight of 0.8
belongs to its own form, which sums both directions: it is the default here, but not a preset.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.embedding import (
    EmbeddingMethod,
    embedding_width,
    unit_vectors,
)
from stillhouse.methods.core.objective.method import BuildContext, MethodConfig, Progress
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.modules.network import Output


class Contrast(EmbeddingMethod):
    """InfoNCE between projected embeddings of student and teacher."""

    class Config(MethodConfig):
        """Settings of :class:`Contrast`."""

        weight: float = MethodConfig.weight_setting(0.8, 0.05, 10.0)
        temperature: float = setting(0.07, "divides the cosines", LogUniform(0.03, 0.5), gt=0.0)
        width: int = setting(128, "of the projected embeddings", Choice((64, 128, 256)), ge=1)

    config: Config

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        student_width = embedding_width(context.student, context.sample)
        teacher_widths = [embedding_width(teacher, context.sample) for teacher in context.teachers]
        self.student_sides = nn.ModuleList(
            nn.Linear(student_width, config.width) for _ in teacher_widths
        )
        self.teacher_sides = nn.ModuleList(nn.Linear(n, config.width) for n in teacher_widths)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From the embeddings [B, C] of all networks."""
        student_embedding, teacher_embeddings = self.embeddings(student, teachers)
        projections = zip(teacher_embeddings, self.student_sides, self.teacher_sides, strict=True)
        return self.mean_over_teachers(
            self._info_nce(student_side(student_embedding), teacher_side(teacher))
            for teacher, student_side, teacher_side in projections
        )

    def _info_nce(self, student: Tensor, teacher: Tensor) -> Tensor:
        similarities = unit_vectors(student) @ unit_vectors(teacher).T / self.config.temperature
        targets = torch.arange(len(similarities), device=similarities.device)
        both = F.cross_entropy(similarities, targets) + F.cross_entropy(similarities.T, targets)
        return both / 2
