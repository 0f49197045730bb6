"""Heads: all classifiers of a teacher co-teach, those on its inner blocks and its own output.

    sum:   L = mean_i sum_h w_h * L_ih
    mean:  L = mean_i sum_h w_h * L_ih / sum_h w_h
    L_ih = T^2 * mean_b sum_c p_ih[b, c] * (log p_ih[b, c] - log q[b, c])
    p_ih = softmax(head_ih / T),  q = softmax(student / T)

Over the heads h of teacher i, among them ``output``, what the teacher itself says. Asadian and
Salehi-Abari 2021, "Distilling knowledge via intermediate classifier heads", take the sum: k heads
that all say what the teacher says teach k + 1 times as strongly as soft targets. The published sum
also holds 1 - alpha of the cross entropy once a head; that is the weight of ``cross_entropy``
(alpha = 0.1 and k = 3: 3.6 beside a weight of 0.1 here, T = 5).

In a search a teacher without heads gets them by itself first, as ``at`` and ``training`` say;
``do: heads`` is the same as an entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from stillhouse.methods.core.objective.method import BuildContext, Method, MethodConfig, Progress
from stillhouse.methods.core.objective.soft_labels import kl_divergence, softened_log_probs
from stillhouse.methods.core.runtime.seeding import SEED_LIMIT
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.network import Network, Output, head_tap

OUTPUT_HEAD = "output"


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
            _select_head_weights(config.weights, teacher) for teacher in context.teachers
        ]

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return tuple(head_tap(name) for name in self._head_weights[teacher] if name != OUTPUT_HEAD)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student, and of every teacher and its heads."""
        t, losses_by_teacher = self.config.temperature, []
        log_q = softened_log_probs(student.logits, t)
        for output, head_weights in zip(teachers, self._head_weights, strict=True):
            losses = [
                w * kl_divergence(p, log_q).mean()
                for p, w in _head_log_probs(output, head_weights, t)
            ]
            divisor = sum(head_weights.values()) if self.config.form == "mean" else 1.0
            losses_by_teacher.append(torch.stack(losses).sum() / divisor)
        return t**2 * torch.stack(losses_by_teacher).mean()


def _head_log_probs(
    output: Output, head_weights: Mapping[str, float], t: float
) -> Iterator[tuple[Tensor, float]]:
    """The softened log probabilities of every head that counts, with its weight."""
    for name, weight in head_weights.items():
        logits = output.logits if name == OUTPUT_HEAD else output.features[head_tap(name)]
        yield softened_log_probs(logits.detach(), t), weight


def _select_head_weights(weights: Mapping[str, float], teacher: Network) -> dict[str, float]:
    """The heads of a teacher that count, by name."""
    names = (*teacher.heads, OUTPUT_HEAD)
    if len(names) == 1:
        raise ConfigError("a teacher has no heads; give it some with an entry `do: heads`")
    problems = [
        Problem("weights", unknown_message("head", n, names)) for n in weights if n not in names
    ]
    weights_by_head = {name: weights.get(name, 1.0) for name in names}
    if not problems and not any(weights_by_head.values()):
        problems = [Problem("weights", "every head has weight 0; raise one of them")]
    if problems:
        raise ConfigError(problems)
    return {name: weight for name, weight in weights_by_head.items() if weight > 0}
