"""Distillation from a stronger teacher: the student's outputs correlate with the teacher's.

    L = beta * mean_b (1 - r(p[b, :], q[b, :])) + gamma * mean_c (1 - r(p[:, c], q[:, c]))
    p = softmax(teacher / T),  q = softmax(student / T),  both [B, classes]
    r = Pearson's correlation: along the classes of an example, along the examples of a class

Huang et al. 2022, "Knowledge distillation from a stronger teacher", section 3 and appendix A.1.
L has no unit and lies in 0 .. 2 (beta + gamma). The authors' code multiplies both terms by 2 and by
T^2: beta = gamma = 32 for CIFAR-100, where T = 4, and 2 for ImageNet, where T = 1. The defaults are
smaller than any published setting. Losses are averaged over teachers.

Rows and columns in which the teacher is constant have no correlation and are left out. A batch of
one therefore has no second term. Where only the student is constant, r is 0 without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import (
    BuildContext,
    Method,
    MethodConfig,
    Preset,
    Progress,
)
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


class Dist(Method):
    """1 minus the correlation of student and teacher probabilities, by example and by class."""

    class Config(MethodConfig):
        """Settings of :class:`Dist`."""

        beta: float = setting(
            2.0, "weight of relations between classes", LogUniform(0.1, 40), ge=0.0
        )
        gamma: float = setting(
            2.0, "weight of relations within a class", LogUniform(0.1, 40), ge=0.0
        )
        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    presets: ClassVar = {
        "huang2022_cifar100": Preset(
            {"weight": 1.0, "beta": 32.0, "gamma": 32.0, "temperature": 4.0},
            "Huang et al. 2022, the authors' configuration, CIFAR-100: 2 times T^2",
            companions=("cross_entropy",),
        ),
        "huang2022_imagenet": Preset(
            {"weight": 1.0, "beta": 2.0, "gamma": 2.0, "temperature": 1.0},
            "Huang et al. 2022, the authors' configuration, ImageNet",
            companions=("cross_entropy",),
        ),
    }
    compares_logits = True
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        if config.beta == config.gamma == 0:
            raise ConfigError([Problem("beta", "teaches nothing: gamma is 0 too; raise either")])

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher."""
        t = self.config.temperature
        q = (student.logits / t).softmax(dim=1)
        return self.mean_over_teachers(
            self._loss((o.logits / t).softmax(dim=1), q) for o in teachers
        )

    def _loss(self, p: Tensor, q: Tensor) -> Tensor:
        between, within = _correlation_distance(p, q), _correlation_distance(p.T, q.T)
        return self.config.beta * between + self.config.gamma * within


def _correlation_distance(p: Tensor, q: Tensor) -> Tensor:
    """The mean of 1 - r over the rows of two matrices [N, M] in which p varies; 0 if none."""
    (p, varies), (q, _) = _standardise(p), _standardise(q)
    distances = torch.where(varies, 1 - (p * q).sum(dim=1, keepdim=True), 0.0)
    return distances.sum() / varies.sum().clamp_min(1)


def _standardise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with mean 0 and length 1, and whether each row varies [N, 1]; constant rows become 0.

    A row counts as constant if it varies by rounding errors only.
    """
    centred = x - x.mean(dim=1, keepdim=True)
    norms = x.detach().norm(dim=1, keepdim=True)
    varies = centred.detach().norm(dim=1, keepdim=True) > 16 * torch.finfo(x.dtype).eps * norms
    divisible = torch.where(varies, centred, 1.0)
    return torch.where(varies, centred / divisible.norm(dim=1, keepdim=True), 0.0), varies
