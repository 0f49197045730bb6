"""Subclass contrast: images spread over directions, so that a teacher uses its subclasses.

    L = mean_i log sum_j exp(u_i . u_j / tau) - 1 / tau - log B
    u_i = v_i / |v_i|,  v_i [classes * S] the logits of image i's subclasses

over all pairs of the batch's B images, whatever their class. It is 0 where all images answer in one
direction and never below -log B; it falls as they spread. Without it one subclass stands for its
whole class, and the others tell a student nothing. Large weights can cost accuracy on the classes
(that is the figure to watch), and small batches have few images to tell apart: use 128 or more.

Mueller, Kornblith and Hinton 2020, "Subclass distillation", the auxiliary loss of the teacher, in
the form that public code has of it. It needs no labels: it is added to cross entropy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from methods.core.data.batch import Batch
from methods.core.embedding import unit
from methods.core.method import MethodConfig, Progress
from methods.core.subclass_logits import SubclassMethod
from spaces.config import knob
from spaces.domain import LogUniform
from spaces.network import Output


class SubclassContrast(SubclassMethod):
    """Mean similarity of the batch's images in their subclass logits, as a log of a sum."""

    class Config(MethodConfig):
        """Settings of :class:`SubclassContrast`."""

        weight: float = knob(
            0.3, "share of this method in the summed loss", LogUniform(0.05, 2.0), ge=0.0
        )
        tau: float = knob(0.5, "divides the cosines", LogUniform(0.05, 1.0), gt=0.0)

    config: Config
    needs_teacher = False
    needs_subclasses = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits of subclasses [B, classes * S] of the student."""
        directions = unit(self.split_logits(student))
        alike = directions @ directions.T / self.config.tau
        collapsed = 1.0 / self.config.tau + math.log(len(alike))
        return alike.logsumexp(dim=1).mean() - collapsed
