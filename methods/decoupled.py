"""Decoupled distillation: separate weights for the true class and for the other classes.

    L = T^2 * mean_b ( alpha * KL(p2 || q2) + beta * KL(p' || q') )
    p2 = (p_t, 1 - p_t)                 of the true class t against all others together
    p'_i = p_i / (1 - p_t),  i != t     among the others alone: [B, classes - 1]
    p = softmax(teacher / T),  q = softmax(student / T);  q2 and q' likewise from q

Zhao et al. 2022, "Decoupled knowledge distillation", section 3. Soft targets are the case
alpha = 1, beta = 1 - p_t: there a confident teacher gives the other classes little weight. Losses
are in nats and averaged over teachers.

The presets are the authors' configurations. On CIFAR-100 beta is 2, 6 or 8, depending on the
networks, with alpha 1, T = 4 and a warm-up of 20 epochs. On ImageNet alpha and T are 1.
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
from stillhouse.methods.core.objective.soft_labels import drop_class, kl_divergence, select_class
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


def _preset(beta: float, temperature: float, warmup: float, pairs: str) -> Preset:
    """One of the authors' configurations; all have alpha 1 and cross entropy with weight 1."""
    settings = {"weight": 1.0, "alpha": 1.0, "beta": beta, "temperature": temperature}
    # A warm-up of one epoch has no effect.
    schedule = {"schedule": {"warmup": {"epochs": warmup}}} if warmup > 1 else {}
    source = f"Zhao et al. 2022, the authors' configuration, {pairs}"
    return Preset({**settings, **schedule}, source, companions=("cross_entropy",))


class Decoupled(Method):
    """Divergences of the true class's probability, and of the probabilities of the others."""

    class Config(MethodConfig):
        """Settings of :class:`Decoupled`."""

        alpha: float = setting(1.0, "weight of the true class", LogUniform(0.1, 4.0), ge=0.0)
        beta: float = setting(8.0, "weight of the other classes", LogUniform(0.25, 16.0), ge=0.0)
        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    presets: ClassVar = {
        "zhao2022_cifar100": _preset(
            8.0, 4.0, 20.0, "CIFAR-100, from ResNet-32x4, to ShuffleNet, or ResNet-50 to MobileNet"
        ),
        "zhao2022_cifar100_resnet": _preset(
            2.0, 4.0, 20.0, "CIFAR-100, ResNet-56 to ResNet-20 and ResNet-110 to ResNet-32"
        ),
        "zhao2022_cifar100_vgg": _preset(
            6.0, 4.0, 20.0, "CIFAR-100, from VGG-13, or WRN-40-2 to WRN-16-2 and WRN-40-1"
        ),
        "zhao2022_imagenet": _preset(0.5, 1.0, 1.0, "ImageNet, ResNet-34 to ResNet-18"),
        "zhao2022_imagenet_mobilenet": _preset(2.0, 1.0, 1.0, "ImageNet, ResNet-50 to MobileNet"),
    }
    compares_logits = True
    needs_labels = True
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        if config.alpha == 0 and (config.beta == 0 or context.classes == 2):
            message = (
                f"teaches nothing: alpha is 0, beta is {config.beta}, classes {context.classes}"
            )
            raise ConfigError([Problem("alpha", f"{message}; raise alpha")])

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher, and labels [B]."""
        t = self.config.temperature
        return t**2 * self.mean_over_teachers(
            self._loss(teacher.logits / t, student.logits / t, batch.labels) for teacher in teachers
        )

    def _loss(self, teacher: Tensor, student: Tensor, labels: Tensor) -> Tensor:
        # A softmax of the other logits: if p_t is near 1, differences of log p round to 0.
        relations = kl_divergence(
            drop_class(teacher, labels).log_softmax(dim=1),
            drop_class(student, labels).log_softmax(dim=1),
        )
        target = kl_divergence(
            _binary_log_probs(teacher, labels), _binary_log_probs(student, labels)
        )
        return (self.config.alpha * target + self.config.beta * relations).mean()


def _binary_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, 2]: log p_t and log(1 - p_t); the sum over the other classes keeps 1 - p_t exact."""
    log_p = logits.log_softmax(dim=1)
    log_p_others = drop_class(log_p, labels).logsumexp(dim=1)
    return torch.stack([select_class(log_p, labels), log_p_others], dim=1)
