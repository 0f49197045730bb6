"""Adversary: a discriminator learns to separate student and teacher; the student opposes it.

    L = 1/2 * (mean_b -log sigmoid(D(t_b)) + mean_b -log(1 - sigmoid(D(R(s_b)))))
    R(s) = s,  dR/ds = -reversal

D is a perceptron with two hidden layers on logits [B, classes]. It is trained with the student and
dropped at the end. D minimises L. The reversed gradient makes the student maximise L, ``reversal``
times as steeply, so one loss serves both. L rises towards log 2, where D can only guess. All
teachers share one D, which counts each of them as real.

Xu, Hsu and Huang 2018, "Training student networks for acceleration with conditional adversarial
networks", section 3 (D on logits; its class output is left to the other methods of an objective);
Shen, He and Xue 2019, "MEAL: multi-model ensemble via adversarial learning", section 3.3 (the
sum over teachers). Reversed gradients: Ganin and Lempitsky 2015, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext, Method, MethodConfig, Progress
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.modules.network import Output


class Adversary(Method):
    """Cross entropy of a discriminator between the networks' logits, reversed for the student."""

    class Config(MethodConfig):
        """Settings of :class:`Adversary`."""

        weight: float = MethodConfig.weight_setting(1.0, 0.01, 10.0)
        reversal: float = setting(
            1.0, "multiplies the student's reversed gradient", LogUniform(0.01, 10.0), gt=0.0
        )
        hidden: int = setting(128, "width of both hidden layers", Choice((64, 128, 256)), ge=1)

    config: Config
    compares_logits = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        with torch.no_grad():
            classes = context.student(context.sample, ()).logits.shape[1]
        self.discriminator = nn.Sequential(
            nn.Linear(classes, config.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(config.hidden, config.hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(config.hidden, 1),
        )

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of all networks."""
        real = self.discriminator(torch.cat([teacher.logits for teacher in teachers]))
        fake = self.discriminator(reverse_gradient(student.logits, self.config.reversal))
        return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def reverse_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, but its gradient is multiplied by -``factor``."""
    return x.detach() - factor * (x - x.detach())
