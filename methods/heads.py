"""Heads: the student learns from a teacher's output and from classifiers on its inner blocks.

    sum:   L = mean_i sum_h w_h * L_ih
    mean:  L = mean_i sum_h w_h * L_ih / sum_h w_h
    L_ih = T^2 * mean_b sum_c p_ih[b, c] * (log p_ih[b, c] - log q[b, c])
    p_ih = softmax(head_ih / T),  q = softmax(student / T)

h runs over the heads of teacher i, with its own output as ``output``. Asadian and Salehi-Abari
2021, "Distilling knowledge via intermediate classifier heads", take the sum: k heads that agree
with the output give k + 1 times the gradient of soft targets. The published sum also has 1 - alpha
of the cross entropy for each head; here that is the weight of ``cross_entropy``. For
alpha = 0.1, k = 3 and T = 5 it is 3.6, with a weight of 0.1 for this method.

A search first trains heads for a teacher that has none, as ``at`` and ``training`` say. An entry
with ``do: heads`` does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import field_validator
from torch import Tensor

from stillhouse.methods.core.config.requirements import (
    HeadedTeachers,
    HeadPlacement,
    TeacherRequirement,
)
from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.head_weights import (
    OUTPUT_HEAD,
    select_head_weights,
    weighted_head_log_probs,
)
from stillhouse.methods.core.objective.method import BuildContext, Method, MethodConfig, Progress
from stillhouse.methods.core.objective.soft_labels import kl_divergence, softened_log_probs
from stillhouse.methods.core.runtime.seeding import SEED_LIMIT
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.modules.network import Output, head_tap


class Heads(Method):
    """Divergence of the student's softened probabilities from those of every head."""

    class Config(MethodConfig):
        """Settings of :class:`Heads`."""

        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        form: Literal["sum", "mean"] = setting(
            "sum", "of the heads' losses", Choice(("sum", "mean"))
        )
        weights: dict[str, float] = setting(
            {}, "block with a head, or output -> its weight; else 1"
        )
        at: HeadPlacement = setting("stages", "blocks that get a head if the teacher has none")
        training: Training = setting(Training(epochs=20, lr=0.01), "how such heads are trained")
        seed: int = setting(
            0, "initialisation and order of examples of such heads", ge=0, lt=SEED_LIMIT
        )

        def identity(self) -> dict[str, Any]:
            return {**super().identity(), "training": self.training.identity()}

        @field_validator("weights")
        @classmethod
        def _not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
            for name, weight in weights.items():
                if weight < 0:
                    raise ValueError(f"needs 0 or more for each, found {weight:g} for {name}")
            return weights

        def requirements(self) -> tuple[TeacherRequirement, ...]:
            required_blocks = tuple(name for name in self.weights if name != OUTPUT_HEAD)
            return (HeadedTeachers(self.at, self.training, self.seed, required_blocks),)

    config: Config
    compares_logits = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        self._head_weights = [
            select_head_weights(config.weights, teacher) for teacher in context.teachers
        ]

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return tuple(head_tap(name) for name in self._head_weights[teacher] if name != OUTPUT_HEAD)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student, and of every teacher and its heads."""
        log_q = softened_log_probs(student.logits, self.config.temperature)
        return self.config.temperature**2 * self.mean_over_teachers(
            self._teacher_loss(output, weights, log_q)
            for output, weights in zip(teachers, self._head_weights, strict=True)
        )

    def _teacher_loss(self, output: Output, weights: Mapping[str, float], log_q: Tensor) -> Tensor:
        head_log_probs = weighted_head_log_probs(output, weights, self.config.temperature)
        losses = [weight * kl_divergence(p, log_q).mean() for p, weight in head_log_probs]
        divisor = sum(weights.values()) if self.config.form == "mean" else 1.0
        return torch.stack(losses).sum() / divisor
