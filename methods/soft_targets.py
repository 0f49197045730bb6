"""Soft targets: the student imitates the teachers' softened class probabilities.

    L_i = T^2 * mean_b sum_c p_i[b, c] * (log p_i[b, c] - log q[b, c])
    p_i = softmax(teacher_i / T),  q = softmax(student / T)

Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2. T^2
keeps the gradient's size while T changes. The sum runs over classes and the mean over the batch;
a mean over both would be weaker by a factor of classes.

The loss is the mean or the sum of the L_i over teachers. Each step leaves out ``drop`` teachers at
random: Son et al. 2021, "Densely guided knowledge distillation using multiple teacher assistants".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import (
    BuildContext,
    Method,
    MethodConfig,
    Preset,
    Progress,
    step_generator,
)
from stillhouse.methods.core.objective.soft_labels import kl_divergence, softened_log_probs
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


class SoftTargets(Method):
    """Divergence of the student's softened probabilities from the teachers'."""

    class Config(MethodConfig):
        """Settings of :class:`SoftTargets`."""

        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        combine: Literal["mean", "sum"] = setting(
            "mean", "how the losses of several teachers are combined", Choice(("mean", "sum"))
        )
        drop: int = setting(0, "teachers left out of each step, drawn at random", ge=0)

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 0.9, "temperature": 4.0},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
            companions=("cross_entropy",),
        )
    }
    compares_logits = True
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        if config.drop >= len(context.teachers):
            message = f"leaves no teacher: {config.drop} of {len(context.teachers)} dropped"
            raise ConfigError([Problem("drop", message)])

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher."""
        teachers_used = self._draw_teachers(teachers, progress)
        losses = torch.stack([self._divergence(t.logits, student.logits) for t in teachers_used])
        return losses.mean() if self.config.combine == "mean" else losses.sum()

    def _draw_teachers(self, teachers: Sequence[Output], progress: Progress) -> Sequence[Output]:
        if self.config.drop == 0:
            return teachers
        order = torch.randperm(len(teachers), generator=step_generator(progress)).tolist()
        return [teachers[i] for i in sorted(order[self.config.drop :])]

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        t = self.config.temperature
        log_p, log_q = softened_log_probs(teacher, t), softened_log_probs(student, t)
        return t**2 * kl_divergence(log_p, log_q).mean()
