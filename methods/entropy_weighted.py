"""Entropy-weighted soft targets: teachers with lower entropy count more, example by example.

    L = T^2 * mean_b sum_i w_i[b] * KL(p_i[b] || q[b])
    w[b] = softmax_i( -sharpness * H_i[b] / log(classes) )
    H_i = -sum_c r_i[c] * log r_i[c],  r_i = softmax(teacher_i),  in nats
    p_i = softmax(teacher_i / T),  q = softmax(student / T)

After Kwon et al. 2020, "Adaptive knowledge distillation based on entropy", which gives labels of
lower entropy a larger rate. The weights are a softmax of entropies relative to log(classes), the
largest entropy. They sum to 1 for any number of teachers, also if all are certain. ``sharpness`` 0
is the mean of ``soft_targets``. With a large sharpness only the most certain teacher counts.
The method reads no labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.methods.core.config.requirements import (
    TEACHERS_HELP,
    SeveralTeachers,
    TeacherRequirement,
)
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Method, MethodConfig, Progress
from stillhouse.methods.core.objective.soft_labels import kl_divergence, softened_log_probs
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Integers, LogUniform
from stillhouse.spaces.modules.network import Output


class EntropyWeighted(Method):
    """Divergence from the teachers' softened probabilities, weighted by their certainty."""

    class Config(MethodConfig):
        """Settings of :class:`EntropyWeighted`."""

        sharpness: float = setting(
            5.0, "how much more a certain teacher counts", LogUniform(0.5, 50.0), ge=0.0
        )
        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        teachers: int = setting(1, TEACHERS_HELP, Integers(1, 5), ge=1)
        added_later: ClassVar[frozenset[str]] = frozenset({"teachers"})

        def requirements(self) -> tuple[TeacherRequirement, ...]:
            return (SeveralTeachers(self.teachers),)

    config: Config
    compares_logits = True
    zero_when_equal = True

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher."""
        t = self.config.temperature
        log_q = softened_log_probs(student.logits, t)
        losses = torch.stack(
            [kl_divergence(softened_log_probs(o.logits, t), log_q) for o in teachers]
        )
        return t**2 * (self.teacher_weights(teachers) * losses).sum(dim=0).mean()

    def teacher_weights(self, teachers: Sequence[Output]) -> Tensor:
        """The weights [teachers, B]; those of an example sum to 1."""
        certainties = torch.stack([-_relative_entropy(teacher.logits) for teacher in teachers])
        return (self.config.sharpness * certainties).softmax(dim=0)


def _relative_entropy(logits: Tensor) -> Tensor:
    """[B]: entropy relative to its maximum; 0 is certain, 1 is uniform."""
    log_p = logits.log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1) / math.log(log_p.shape[1])
