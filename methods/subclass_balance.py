"""Subclass balance: every subclass is used by some images, and every image commits to one.

    L = mean_c ( -H(mean_i r_i) + sharpen * mean_i H(r_i) )
    r_i = softmax_s v_i[c, s],  i over the batch's images of class c,  H the entropy in nats

v_i [classes, S] are the logits of image i's subclasses; classes without an image in the batch do
not count. The first entropy is largest where a class uses all its subclasses alike, the second
smallest where each image is sure of one. It lies in -log S .. sharpen * log S.

A public reimplementation of Mueller, Kornblith and Hinton 2020, "Subclass distillation", has it in
place of the authors' auxiliary loss, which is ``subclass_contrast``, with a weight of 1 and
``sharpen`` of 0.5. One or the other keeps a teacher's subclasses alive.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import MethodConfig, Progress
from stillhouse.methods.core.objective.subclass_logits import SubclassMethod
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform, Uniform
from stillhouse.spaces.modules.network import Output
from stillhouse.spaces.modules.subclasses import group_by_class


class SubclassBalance(SubclassMethod):
    """Negative entropy of a class's mean subclasses, and entropy of each image's."""

    class Config(MethodConfig):
        """Settings of :class:`SubclassBalance`."""

        weight: float = setting(
            1.0, "share of this method in the summed loss", LogUniform(0.05, 2.0), ge=0.0
        )
        sharpen: float = setting(0.5, "weight of each image's entropy", Uniform(0.0, 1.0), ge=0.0)

    config: Config
    needs_teacher = False
    needs_subclasses = True
    needs_labels = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits of subclasses [B, classes * S] of the student, and labels [B]."""
        labels, logits = (
            batch.labels,
            group_by_class(self.subclass_logits(student), self.subclasses),
        )
        rows = labels[:, None, None].expand(-1, 1, self.subclasses)
        log_r = logits.gather(1, rows)[:, 0].log_softmax(dim=1)
        r = log_r.exp()
        entropies = -(r * log_r).sum(dim=1)
        membership = (labels == torch.arange(logits.shape[1], device=labels.device)[:, None]).to(r)
        images_per_class = membership.sum(dim=1).clamp(min=1.0)
        mean = membership @ r / images_per_class[:, None]
        mean_entropy = membership @ entropies / images_per_class
        # The slope of x log x at 0 is endless, and no image's share in it makes it 0.
        entropy_of_mean = -(mean * mean.clamp(min=1e-30).log()).sum(dim=1)
        loss = self.config.sharpen * mean_entropy - entropy_of_mean
        return loss.sum() / membership.any(dim=1).sum()
