"""Partial teacher (KD-pt): only how sure the teacher is of the true class, and nothing else.

    L = T^2 * mean_b KL(rho || q)
    rho_t = p_t,   rho_i = (1 - p_t) / (classes - 1)  for i != t, the true class
    p = softmax(teacher / T),  q = softmax(student / T)

Tang et al. 2020, "Understanding and improving knowledge distillation": a synthetic teacher that
keeps the weighing of examples alone. At the true class's logit its gradient is that of soft
targets, so against cross entropy examples weigh as much as there; relations between classes are
erased. The paper's loss is lam times the cross entropy with rho, without T^2: the same gradient
where the weight here is lam / T^2. In nats; several teachers' losses are averaged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stillhouse.methods.core.objective.method import MethodConfig
from stillhouse.methods.core.objective.soft_labels import (
    drop_class,
    join_class,
    select_class,
    softened_log_probs,
)
from stillhouse.methods.core.objective.synthetic_teacher import SyntheticTeacher
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import LogUniform


class PartialTeacher(SyntheticTeacher):
    """Soft targets whose classes beside the true one are all alike."""

    class Config(MethodConfig):
        """Settings of :class:`PartialTeacher`."""

        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config

    def target(self, number: int, teacher: Tensor, labels: Tensor) -> Tensor:
        log_p = softened_log_probs(teacher, self.config.temperature)
        others = drop_class(log_p, labels)
        # Summed over the others, 1 - p_t stays exact where p_t rounds to 1.
        share = others.logsumexp(dim=1, keepdim=True) - math.log(others.shape[1])
        return join_class(select_class(log_p, labels), share + torch.zeros_like(others), labels)
