"""Decoupled distillation: the true class and the relations among the others, weighed apart.

    L = T^2 * mean_b ( alpha * KL(p2 || q2) + beta * KL(p' || q') )
    p2 = (p_t, 1 - p_t)                 of the true class t against all others together
    p'_i = p_i / (1 - p_t),  i != t     among the others alone: [B, classes - 1]
    p = softmax(teacher / T),  q = softmax(student / T);  q2 and q' likewise from q

Zhao et al. 2022, "Decoupled knowledge distillation", section 3. Soft targets are the case
alpha = 1, beta = 1 - p_t: there the relations count least where the teacher is surest. Losses
are in nats; those of several teachers are averaged.

The paper's weights: alpha 1, beta 8 at T = 4 on CIFAR-100; alpha and beta 0.5 at T = 1 on
ImageNet. Its warm-up of 20 epochs is the schedule ``linear: {start: 0, stop: 1, until: 20}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from methods.core.data.batch import Batch
from methods.core.method import Method, MethodConfig, Pair, Preset, Progress
from methods.core.soft_labels import divergence, of_class, of_others
from spaces.config import knob
from spaces.domain import LogUniform
from spaces.network import Output
from spaces.problem import ConfigError, Problem


class Decoupled(Method):
    """Divergences of the true class's probability, and of the probabilities of the others."""

    class Config(MethodConfig):
        """Settings of :class:`Decoupled`."""

        alpha: float = knob(1.0, "weight of the true class", LogUniform(0.1, 4.0), ge=0.0)
        beta: float = knob(8.0, "weight of the other classes", LogUniform(0.25, 16.0), ge=0.0)
        temperature: float = knob(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    presets: ClassVar = {
        "zhao2022_cifar100": Preset(
            {
                "weight": 1.0,
                "alpha": 1.0,
                "beta": 8.0,
                "temperature": 4.0,
                "schedule": {"linear": {"start": 0.0, "stop": 1.0, "until": 20.0}},
            },
            "Zhao et al. 2022, the authors' answer and configuration, CIFAR-100, with its warm-up",
        ),
        "zhao2022_imagenet": Preset(
            {"weight": 1.0, "alpha": 0.5, "beta": 0.5, "temperature": 1.0},
            "Zhao et al. 2022, ImageNet",
        ),
    }
    compares_logits = True
    needs_labels = True
    zero_when_equal = True

    def __init__(self, config: Config, pair: Pair) -> None:
        super().__init__(config, pair)
        if config.alpha == 0 and (config.beta == 0 or pair.classes == 2):
            found = f"teaches nothing: alpha is 0, beta is {config.beta}, classes {pair.classes}"
            raise ConfigError([Problem("alpha", f"{found}; raise alpha")])

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher, and labels [B]."""
        t = self.config.temperature
        losses = [self._loss(o.logits / t, student.logits / t, batch.labels) for o in teachers]
        return t**2 * torch.stack(losses).mean()

    def _loss(self, teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
        # Normalised anew: beside a sure class, the others' log p differ by less than they round.
        relations = divergence(
            of_others(teacher, labels).log_softmax(dim=1),
            of_others(student, labels).log_softmax(dim=1),
        )
        target = divergence(_two(teacher, labels), _two(student, labels))
        return (self.config.alpha * target + self.config.beta * relations).mean()


def _two(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, 2]: the logarithms of p_t and 1 - p_t; summing the others keeps small rests exact."""
    log_p = logits.log_softmax(dim=1)
    rest = of_others(log_p, labels).logsumexp(dim=1)
    return torch.stack([of_class(log_p, labels), rest], dim=1)
