"""Deep to shallow: classifiers on the student's inner stages learn from its final output.

    L = sum_i (1 - alpha) * mean_b CE(z_i, label) + alpha * f * mean_b KL(p || q_i)
    p = softmax(student / T), without gradient,  q_i = softmax(z_i / T),  f = T^2

over the ends i of all stages but the last. z_i = c_i(s_i) are the logits of a shallow classifier
on the student's map s_i. It has a 1x1 convolution to the width of the last stage, batch norm, ReLU,
the mean over the map and one linear layer. The classifiers are trained with the student and dropped
at the end. The student's output learns from the labels by ``cross_entropy``. ``scaled: false`` sets
f = 1; the gradient of the soft targets is then T^2 times smaller.

Zhang et al. 2019, "Be your own teacher: improve the performance of convolutional neural networks
via self distillation", with alpha = 0.3 and T = 3. The authors' code has f = 1 and larger
classifiers. Like this file it lacks the paper's third term, a hint between the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import (
    BuildContext,
    Method,
    MethodConfig,
    Preset,
    Progress,
)
from stillhouse.methods.core.objective.soft_labels import kl_divergence, softened_log_probs
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.heads import maps, stage_ends
from stillhouse.spaces.modules.network import Output


class DeepToShallow(Method):
    """Cross entropy and soft targets of shallow classifiers, taught by the student itself."""

    class Config(MethodConfig):
        """Settings of :class:`DeepToShallow`."""

        alpha: float = setting(0.3, "share of the soft targets", Uniform(0.0, 1.0), ge=0.0, le=1.0)
        temperature: float = setting(3.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        scaled: bool = setting(
            True, "whether soft targets are multiplied by T squared", Choice((True, False))
        )
        added_later: ClassVar[frozenset[str]] = frozenset({"scaled"})

    config: Config
    presets: ClassVar = {
        "zhang2019": Preset(
            {"weight": 1.0, "alpha": 0.3, "temperature": 3.0, "scaled": False},
            "Zhang et al. 2019, the loss of the authors' code, CIFAR-100",
            companions=("cross_entropy",),
        )
    }
    needs_teacher = False
    needs_labels = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        channels, height, width = context.sample.shape[1:]
        map_shapes = maps(context.student, (channels, height, width))
        *shallow, last = stage_ends(map_shapes) or ("",)
        if not shallow:
            message = "needs a student with maps of two sizes or more, found one stage"
            raise ConfigError(message)
        width, classes = map_shapes[last][0], context.classes
        self.classifiers = nn.ModuleDict(
            {name: _classifier(map_shapes[name][0], width, classes) for name in shallow}
        )

    def student_taps(self) -> tuple[str, ...]:
        return tuple(self.classifiers)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes], labels [B] and maps [B, C, H, W] of the student."""
        t, alpha = self.config.temperature, self.config.alpha
        factor = t**2 if self.config.scaled else 1.0
        log_p = softened_log_probs(student.logits.detach(), t)
        losses = []
        for name, classifier in self.classifiers.items():
            logits = classifier(student.features[name])
            imitation_loss = factor * kl_divergence(log_p, softened_log_probs(logits, t)).mean()
            losses.append(
                (1 - alpha) * F.cross_entropy(logits, batch.labels) + alpha * imitation_loss
            )
        return torch.stack(losses).sum()


def _classifier(inputs: int, width: int, classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )
