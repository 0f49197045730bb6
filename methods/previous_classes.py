"""Previous classes: a network that learns new classes keeps its outputs for the old ones.

    L = T^2 * mean_b sum_c p[b, c] * (log p[b, c] - log q[b, c]),  over the old classes c alone
    p = softmax(teacher[:, old] / T),  q = softmax(student[:, old] / T)

The teacher is the network before it learns the new classes. It sees the new images; old images are
not needed. It was not trained on the new classes, so their logits are left out in both networks.
Losses are averaged over teachers.

Li and Hoiem 2017, "Learning without forgetting", section 3, with T = 2 as published. In the paper
the old classes have a head of their own; here they are columns of one head. The paper has no T^2,
which keeps the size of the gradient if T changes.
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

        classes: tuple[int, ...] | None = setting(None, "the old classes; none means all classes")
        temperature: float = setting(2.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config
    old: Tensor
    compares_logits = True
    zero_when_equal = True

    def __init__(self, config: Config, context: BuildContext) -> None:
        super().__init__(config, context)
        present = range(context.classes)
        old = present if config.classes is None else config.classes
        if len(set(old)) < max(2, len(old)) or not set(old) <= set(present):
            allowed = f"two or more of 0 to {context.classes - 1}, each once"
            raise ConfigError([Problem("classes", f"needs {allowed}, found {list(old)}")])
        old_classes = torch.tensor(old, device=context.sample.device)
        self.register_buffer("old", old_classes, persistent=False)

    def forward(
        self, student: Output, teachers: Sequence[Output], batch: Batch, progress: Progress
    ) -> Tensor:
        """From logits [B, classes] of the student and of every teacher."""
        t = self.config.temperature
        labels = [softened_log_probs(teacher.logits[:, self.old], t) for teacher in teachers]
        return distillation_loss(student.logits[:, self.old], labels, t)
