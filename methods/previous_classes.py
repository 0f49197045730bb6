"""Previous classes: while new ones are learnt, the previous network says what it knew of the old.

    L = T^2 * mean_b sum_c p[b, c] * (log p[b, c] - log q[b, c]),  over the old classes c alone
    p = softmax(teacher[:, old] / T),  q = softmax(student[:, old] / T)

The teacher is the network as it was before, asked about the new images; no old image is needed. Of
the new classes it knows nothing, so their logits are left out on both sides. Several teachers: the
mean of their losses.

Li and Hoiem 2017, "Learning without forgetting", section 3, with T = 2 as published; there the old
classes have a head of their own, here they are columns of one. The paper has no T^2, which keeps
the gradient's size while T changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import Method, MethodConfig, Pair, Progress
from stillhouse.methods.core.objective.soft_labels import imitation, softened
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


class PreviousClasses(Method):
    """Divergence of the student's softened probabilities of the old classes."""

    class Config(MethodConfig):
        """Settings of :class:`PreviousClasses`."""

        classes: tuple[int, ...] | None = knob(
            None, "the old classes; none means all, as where the new data has the old classes too"
        )
        temperature: float = knob(2.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    old: Tensor
    compares_logits = True
    zero_when_equal = True

    def __init__(self, config: Config, pair: Pair) -> None:
        super().__init__(config, pair)
        old = range(pair.classes) if config.classes is None else config.classes
        if len(set(old)) < max(2, len(old)) or not set(old) <= set(range(pair.classes)):
            message = f"needs two or more of 0 to {pair.classes - 1}, each once, found {list(old)}"
            raise ConfigError([Problem("classes", message)])
        self.register_buffer("old", torch.tensor(old, device=pair.sample.device), persistent=False)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher."""
        t = self.config.temperature
        labels = [softened(teacher.logits[:, self.old], t) for teacher in teachers]
        return imitation(student.logits[:, self.old], labels, t)
