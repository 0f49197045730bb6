"""Cross entropy with the labels: learning from the data alone.

    L = mean_b -sum_c y'[b, c] * log q[b, c]
    q = softmax(student)
    y' = (1 - s) * one_hot(label) + s / classes

Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7,
where s is the label smoothing; 0 is plain cross entropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from methods.core.data.batch import Batch
from methods.core.method import Method, MethodConfig, Progress
from spaces.config import knob
from spaces.domain import Uniform
from spaces.network import Output


class CrossEntropy(Method):
    """How far the student's probabilities are from the labels."""

    class Config(MethodConfig):
        """Settings of :class:`CrossEntropy`."""

        label_smoothing: float = knob(
            0.0, "share of the label spread over all classes", Uniform(0.0, 0.3), ge=0.0, lt=1.0
        )

    config: Config
    needs_teacher = False
    needs_labels = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] and labels [B]."""
        smoothing = self.config.label_smoothing
        return F.cross_entropy(student.logits, batch.labels, label_smoothing=smoothing)
