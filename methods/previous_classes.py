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
from stillhouse.methods.core.objective.method import BuildContext, Method, MethodConfig, Progress
from stillhouse.methods.core.objective.soft_labels import distillation_loss, softened_log_probs
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Output


class PreviousClasses(Method):
    """Divergence of the student's softened probabilities of the old classes."""

    class Config(MethodConfig):
        """Settings of :class:`PreviousClasses`."""

        classes: tuple[int, ...] | None = setting(
            None, "the old classes; none means all, as where the new data has the old classes too"
        )
        temperature: float = setting(2.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    old: Tensor
    compares_logits = True
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        old_classes = range(context.classes) if config.classes is None else config.classes
        if len(set(old_classes)) < max(2, len(old_classes)) or not set(old_classes) <= set(
            range(context.classes)
        ):
            message = f"needs two or more of 0 to {context.classes - 1}, each once, found {list(old_classes)}"
            raise ConfigError([Problem("classes", message)])
        self.register_buffer(
            "old", torch.tensor(old_classes, device=context.sample.device), persistent=False
        )

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher."""
        t = self.config.temperature
        labels = [softened_log_probs(teacher.logits[:, self.old], t) for teacher in teachers]
        return distillation_loss(student.logits[:, self.old], labels, t)
