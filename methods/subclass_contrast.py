"""Subclass contrast: images have different subclass logits, so a teacher uses its subclasses.

    L = mean_i log sum_j exp(z_i . z_j) - 1 / tau - log B
    z_i = (v_i - mean_k v_i) / std_k v_i / sqrt(tau * K)

v_i [K] are the logits of image i for its K = classes * S subclasses. Mean and std run over k, so
z_i . z_j is the Pearson correlation of the logits of two images, divided by tau. Rows are centred
because a softmax ignores a common offset of the logits, and an offset changes cosines.

i and j run over the B images of the batch, of all classes. The loss is 0 if all images have equal
logits. It is at least -log B and falls as the images differ more. An image with K equal logits
correlates with no other. Use batches of 128 or more.

Mueller, Kornblith and Hinton 2020, "Subclass distillation": the auxiliary loss of the teacher in
the authors' code (MNIST in two classes with five subclasses, batches of 256). It is added to cross
entropy and needs no labels. Version 1 compared raw logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.embedding import unit_vectors
from stillhouse.methods.core.objective.method import MethodConfig, Preset, Progress
from stillhouse.methods.core.objective.subclass_logits import SubclassMethod
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.modules.network import Output


class SubclassContrast(SubclassMethod):
    """Log of the summed exponential correlations between the images of a batch."""

    class Config(MethodConfig):
        """Settings of :class:`SubclassContrast`."""

        weight: float = MethodConfig.weight_setting(0.3, 0.05, 2.0)
        tau: float = setting(0.5, "divides the correlations", LogUniform(0.05, 1.0), gt=0.0)

    config: Config
    version = 2
    presets: ClassVar = {
        "mueller2020_teacher": Preset(
            {"weight": 1.0, "tau": 1.0},
            "Mueller, Kornblith and Hinton 2020, the teacher of the authors' code, MNIST",
            companions=("cross_entropy",),
        )
    }
    needs_teacher = False
    needs_subclasses = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits of subclasses [B, classes * S] of the student."""
        logits = self.subclass_logits(student)
        directions = unit_vectors(logits - logits.mean(dim=1, keepdim=True))
        similarities = directions @ directions.T / self.config.tau
        collapsed_loss = 1.0 / self.config.tau + math.log(len(similarities))
        return similarities.logsumexp(dim=1).mean() - collapsed_loss
