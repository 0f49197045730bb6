"""Subclass balance: a class uses all its subclasses, and each image has one likely subclass.

    L = mean_c ( -H(mean_i r_i) + sharpen * mean_i H(r_i) )
    r_i = softmax_s v_i[c, s],  i over the batch's images of class c,  H the entropy in nats

v_i [classes, S] are the subclass logits of image i. Classes without an image in the batch do not
count. The first entropy is largest if a class uses all its subclasses equally. The second is
smallest if each image has one likely subclass. L lies in -log S .. sharpen * log S.

A public reimplementation of Mueller, Kornblith and Hinton 2020, "Subclass distillation", uses this
loss with weight 1 and ``sharpen`` 0.5, in place of the authors' ``subclass_contrast``. Each of the
two keeps a teacher from using one subclass only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import MethodConfig, Progress
from stillhouse.methods.core.objective.subclass_logits import SubclassMethod
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Uniform
from stillhouse.spaces.modules.network import Output
from stillhouse.spaces.modules.subclasses import group_by_class


class SubclassBalance(SubclassMethod):
    """Entropy of each image's subclasses, less the entropy of their mean over a class."""

    class Config(MethodConfig):
        """Settings of :class:`SubclassBalance`."""

        weight: float = MethodConfig.weight_setting(1.0, 0.05, 2.0)
        sharpen: float = setting(0.5, "weight of each image's entropy", Uniform(0.0, 1.0), ge=0.0)

    config: Config
    needs_teacher = False
    needs_subclasses = True
    needs_labels = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits of subclasses [B, classes * S] of the student, and labels [B]."""
        labels = batch.labels
        logits = group_by_class(self.subclass_logits(student), self.subclasses)
        rows = labels[:, None, None].expand(-1, 1, self.subclasses)
        log_r = logits.gather(1, rows)[:, 0].log_softmax(dim=1)
        r = log_r.exp()
        entropies = -(r * log_r).sum(dim=1)
        membership = (labels == torch.arange(logits.shape[1], device=labels.device)[:, None]).to(r)
        images_per_class = membership.sum(dim=1).clamp(min=1.0)
        mean = membership @ r / images_per_class[:, None]
        mean_entropy = membership @ entropies / images_per_class
        # The slope of x log x at 0 is infinite; the clamp keeps the gradient finite.
        entropy_of_mean = -(mean * mean.clamp(min=1e-30).log()).sum(dim=1)
        loss = self.config.sharpen * mean_entropy - entropy_of_mean
        return loss.sum() / membership.any(dim=1).sum()
