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

from stillhouse.methods.core.config.requirements import At, Brings, HeadedTeachers
from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Method, MethodConfig, Pair, Progress
from stillhouse.methods.core.objective.soft_labels import divergence, softened
from stillhouse.methods.core.runtime.seeding import SEEDS
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown
from stillhouse.spaces.modules.network import Network, Output, head_of

OWN = "output"


class Heads(Method):
    """Divergence of the student's softened probabilities from those of every head."""

    class Config(MethodConfig):
        """Settings of :class:`Heads`."""

        temperature: float = knob(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)
        form: Literal["sum", "mean"] = knob("sum", "of the heads' losses", Choice(("sum", "mean")))
        weights: dict[str, float] = knob({}, "block with a head, or output -> its weight; else 1")
        at: At = knob("stages", "blocks that get a head if the teacher has none")
        training: Training = knob(Training(epochs=20, lr=0.01), "how such heads are trained")
        seed: int = knob(0, "initialisation and order of examples of such heads", ge=0, lt=SEEDS)

        def identity(self) -> dict[str, Any]:
            return {**super().identity(), "training": self.training.identity()}

        @field_validator("weights")
        @classmethod
        def _no_less_than_none(cls, weights: dict[str, float]) -> dict[str, float]:
            for name, weight in weights.items():
                if weight < 0:
                    raise ValueError(f"needs 0 or more for each, found {weight:g} for {name}")
            return weights

        def brings(self) -> tuple[Brings, ...]:
            named = tuple(name for name in self.weights if name != OWN)
            return (HeadedTeachers(self.at, self.training, self.seed, named),)

    config: Config
    compares_logits = True

    def __init__(self, config: Config, pair: Pair) -> None:
        super().__init__(config, pair)
        self._shares = [_shares(config.weights, teacher) for teacher in pair.teachers]

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return tuple(head_of(name) for name in self._shares[teacher] if name != OWN)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student, and of every teacher and its heads."""
        t, each = self.config.temperature, []
        log_q = softened(student.logits, t)
        for said, shares in zip(teachers, self._shares, strict=True):
            losses = [w * divergence(p, log_q).mean() for p, w in _answers(said, shares, t)]
            over = sum(shares.values()) if self.config.form == "mean" else 1.0
            each.append(torch.stack(losses).sum() / over)
        return t**2 * torch.stack(each).mean()


def _answers(said: Output, shares: Mapping[str, float], t: float) -> Iterator[tuple[Tensor, float]]:
    """The softened log probabilities of every head that counts, with its weight."""
    for name, weight in shares.items():
        logits = said.logits if name == OWN else said.features[head_of(name)]
        yield softened(logits.detach(), t), weight


def _shares(weights: Mapping[str, float], teacher: Network) -> dict[str, float]:
    """The heads of a teacher that count, by name."""
    names = (*teacher.heads, OWN)
    if len(names) == 1:
        raise ConfigError("a teacher has no heads; give it some with an entry `do: heads`")
    wrong = [Problem("weights", unknown("head", n, names)) for n in weights if n not in names]
    found = {name: weights.get(name, 1.0) for name in names}
    if not wrong and not any(found.values()):
        wrong = [Problem("weights", "every head has weight 0; raise one of them")]
    if wrong:
        raise ConfigError(wrong)
    return {name: weight for name, weight in found.items() if weight > 0}
