"""Cross entropy with the labels: learning from the data alone.

    L = mean_b -sum_c y'[b, c] * log q[b, c]
    q = softmax(student)
    y' = (1 - s) * one_hot(label) + s / classes

Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7,
where s is the label smoothing; 0 is plain cross entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Method, MethodConfig, Preset, Progress
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Uniform
from stillhouse.spaces.modules.network import Output


class CrossEntropy(Method):
    """Cross entropy between the labels and the student's probabilities."""

    class Config(MethodConfig):
        """Settings of :class:`CrossEntropy`."""

        label_smoothing: float = setting(
            0.0, "share of the label spread over all classes", Uniform(0.0, 0.3), ge=0.0, lt=1.0
        )

    config: Config
    presets: ClassVar = {
        "szegedy2016": Preset({"label_smoothing": 0.1}, "Szegedy et al. 2016, section 7, ImageNet"),
        "tian2020": Preset(
            {"weight": 0.1},
            "Tian, Krishnan and Isola 2020 (CRD), the authors' comparison script, CIFAR-100",
            companions=("soft_targets",),
        ),
        "mueller2020_mnist": Preset(
            {"weight": 0.5},
            "Mueller, Kornblith and Hinton 2020, the authors' code, MNIST in two classes",
            companions=("subclasses",),
        ),
        "zhou2020_cifar100": Preset(
            {"schedule": {"switch": {"since": 60}}},
            "Zhou et al. 2020, the authors' code, CIFAR-100, 200 epochs",
            companions=("guided", "channel_attention"),
        ),
        "zhou2020_imagenet": Preset(
            {"schedule": {"switch": {"since": 30}}},
            "Zhou et al. 2020, the authors' code, ImageNet, 100 epochs",
            companions=("guided", "channel_attention"),
        ),
    }
    needs_teacher = False
    needs_labels = True
    accepts_soft_labels = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] and labels [B], or soft labels [B, classes]."""
        smoothing = self.config.label_smoothing
        return F.cross_entropy(student.logits, batch.labels, label_smoothing=smoothing)
