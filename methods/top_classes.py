"""Top classes (KD-topk): the teacher's largest probabilities, and equal ones for the other classes.

    L = T^2 * mean_b KL(rho || q)
    rho_i = p_i                                  for i in K: the top classes and the true one
    rho_i = (1 - sum_K p) / (classes - |K|)      for the others
    p = softmax(teacher / T),  q = softmax(student / T)

Tang et al. 2020, "Understanding and improving knowledge distillation": relations with the likely
classes help, the small probabilities are noise. K has the top round(fraction * C) of C classes, at
least one, and the true class. With ``fraction`` 1 the loss equals soft targets. With one class and
a teacher that is right it equals ``partial_teacher``. The paper's loss is lam times the cross
entropy with rho, without T^2: the gradient is the same for weight = lam / T^2. Losses are in nats
and averaged over teachers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stillhouse.methods.core.objective.method import MethodConfig
from stillhouse.methods.core.objective.soft_labels import softened_log_probs
from stillhouse.methods.core.objective.synthetic_teacher import SyntheticTeacher
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform


class TopClasses(SyntheticTeacher):
    """Soft targets with equal probabilities for unlikely classes."""

    class Config(MethodConfig):
        """Settings of :class:`TopClasses`."""

        fraction: float = setting(
            0.2, "share of the classes that is kept", LogUniform(0.05, 0.5), gt=0.0, le=1.0
        )
        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config

    def target(self, number: int, teacher: Tensor, labels: Tensor) -> Tensor:
        log_p = softened_log_probs(teacher, self.config.temperature)
        count = max(1, round(self.config.fraction * log_p.shape[1]))
        is_kept = torch.zeros_like(log_p, dtype=torch.bool)
        is_kept.scatter_(1, log_p.topk(count, dim=1).indices, True)
        is_kept.scatter_(1, labels[:, None], True)
        log_p_rest = log_p.masked_fill(is_kept, -torch.inf).logsumexp(dim=1, keepdim=True)
        num_others = (~is_kept).sum(dim=1, keepdim=True).clamp_min(1).to(log_p.dtype)
        return torch.where(is_kept, log_p, log_p_rest - num_others.log())
