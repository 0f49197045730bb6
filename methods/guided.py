"""Guided: soft targets on the images that the teacher classifies correctly.

    L_i  = T^2 * sum_b m_i[b] * KL(p_i[b] || q[b]) / max(sum_b m_i[b], 1)
    m_i  = 1 where argmax_c teacher_i[b, c] is the label, else 0
    p_i  = softmax(teacher_i / T),  q = softmax(student / T)

Logits are [B, classes]; the divergence is in nats. Images that a teacher classifies wrongly do not
count for that teacher. Its loss is 0 if all images of the batch are wrong. The loss is the mean of
the L_i over teachers.

Zhou, Zhuge, Guan and Liu 2020, "Channel distillation: channel-wise attention for knowledge
distillation", section 3, with T = 1 and weights of 0.1 (CIFAR-100) and 1 (ImageNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Method, MethodConfig, Preset, Progress
from stillhouse.methods.core.objective.soft_labels import kl_divergence, softened_log_probs
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.modules.network import Output


class Guided(Method):
    """Divergence from the teachers' softened probabilities where their answer is correct."""

    class Config(MethodConfig):
        """Settings of :class:`Guided`."""

        weight: float = MethodConfig.weight_setting(1.0, 0.01, 10.0)
        temperature: float = setting(1.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    presets: ClassVar = {
        "zhou2020_cifar100": Preset(
            {"weight": 0.1, "temperature": 1.0, "schedule": {"switch": {"since": 60}}},
            "Zhou et al. 2020, the authors' code, CIFAR-100, 200 epochs",
            companions=("cross_entropy", "channel_attention"),
        ),
        "zhou2020_imagenet": Preset(
            {"weight": 1.0, "temperature": 1.0, "schedule": {"switch": {"since": 30}}},
            "Zhou et al. 2020, the authors' code, ImageNet, 100 epochs",
            companions=("cross_entropy", "channel_attention"),
        ),
    }
    compares_logits = True
    zero_when_equal = True
    needs_labels = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher, and labels [B]."""
        return self.mean_over_teachers(
            self._teacher_loss(t.logits, student.logits, batch.labels) for t in teachers
        )

    def _teacher_loss(self, teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
        t = self.config.temperature
        # The mask selects examples: a class with probability 0 adds 0 without a mask.
        divergences = kl_divergence(softened_log_probs(teacher, t), softened_log_probs(student, t))
        is_correct = teacher.argmax(dim=1) == labels
        total = torch.where(is_correct, divergences, 0.0).sum()
        return t**2 * total / is_correct.sum().clamp(min=1)
