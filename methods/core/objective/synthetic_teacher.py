"""Synthetic teachers: labels that keep one part of a teacher's distribution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Method, Progress
from stillhouse.methods.core.objective.soft_labels import distillation_loss
from stillhouse.spaces.modules.network import Output


class SyntheticTeacher(Method):
    """A method of Tang et al. 2020, "Understanding and improving knowledge distillation".

        L = T^2 * mean_b KL(rho || q),    q = softmax(student / T)

    The loss is in nats and averaged over teachers. A subclass defines ``target``; its settings have
    ``temperature``.
    """

    compares_logits = True
    needs_labels = True

    def target(self, number: int, teacher: Tensor, labels: Tensor) -> Tensor:
        """log rho [B, classes], from teacher ``number``'s logits [B, classes] and labels [B]."""
        raise NotImplementedError

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher, and labels [B]."""
        labels = [self.target(i, output.logits, batch.labels) for i, output in enumerate(teachers)]
        return distillation_loss(student.logits, labels, self.config.temperature)
