"""Soft targets: the student imitates the teachers' softened class probabilities.

    L_i = T^2 * mean_b sum_c p_i[b, c] * (log p_i[b, c] - log q[b, c])
    p_i = softmax(teacher_i / T),  q = softmax(student / T)

Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network", section 2. T^2
keeps the gradient's size while T changes. The sum runs over classes and the mean over the batch;
a mean over both would be weaker by a factor of classes.

Several teachers: the mean of the L_i, or their sum, of which each step leaves out ``drop`` at
random: Son et al. 2021, "Densely guided knowledge distillation using multiple teacher assistants".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import (
    Method,
    MethodConfig,
    Pair,
    Preset,
    Progress,
    generator_for,
)
from stillhouse.methods.core.objective.soft_labels import divergence, softened
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


class SoftTargets(Method):
    """Divergence of the student's softened probabilities from the teachers'."""

    class Config(MethodConfig):
        """Settings of :class:`SoftTargets`."""

        temperature: float = knob(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        combine: Literal["mean", "sum"] = knob(
            "mean", "what becomes of several teachers' losses", Choice(("mean", "sum"))
        )
        drop: int = knob(0, "teachers left out of each step, drawn at random", ge=0)

    config: Config
    presets: ClassVar = {
        "tian2020": Preset(
            {"weight": 0.9, "temperature": 4.0},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
            beside=("cross_entropy",),
        ),
    }
    compares_logits = True
    zero_when_equal = True

    def __init__(self, config: Config, pair: Pair) -> None:
        super().__init__(config, pair)
        if config.drop >= len(pair.teachers):
            found = f"leaves no teacher: {config.drop} of {len(pair.teachers)} dropped"
            raise ConfigError([Problem("drop", found)])

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher."""
        heard = self._heard(teachers, progress)
        losses = torch.stack([self._divergence(t.logits, student.logits) for t in heard])
        return losses.mean() if self.config.combine == "mean" else losses.sum()

    def _heard(self, teachers: Sequence[Output], progress: Progress) -> Sequence[Output]:
        if self.config.drop == 0:
            return teachers
        order = torch.randperm(len(teachers), generator=generator_for(progress)).tolist()
        return [teachers[i] for i in sorted(order[self.config.drop :])]

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        t = self.config.temperature
        return t**2 * divergence(softened(teacher, t), softened(student, t)).mean()
