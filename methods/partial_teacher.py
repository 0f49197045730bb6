"""Partial teacher (KD-pt): only the teacher's probability of the true class.

    L = T^2 * mean_b KL(rho || q)
    rho_t = p_t,   rho_i = (1 - p_t) / (classes - 1)  for i != t, the true class
    p = softmax(teacher / T),  q = softmax(student / T)

Tang et al. 2020, "Understanding and improving knowledge distillation". The synthetic teacher keeps
only the confidence in each example. At the logit of the true class its gradient equals that of soft
targets, so examples have the same weights. Relations between classes are removed. The paper's loss
is lam times the cross entropy with rho, without T^2: the gradient is the same for
weight = lam / T^2. Losses are in nats and averaged over teachers.
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
    """Soft targets whose wrong classes all have the same probability."""

    class Config(MethodConfig):
        """Settings of :class:`PartialTeacher`."""

        temperature: float = setting(4.0, "divides the logits", LogUniform(1.0, 20.0), gt=0.0)

    config: Config

    def target(self, number: int, teacher: Tensor, labels: Tensor) -> Tensor:
        log_p = softened_log_probs(teacher, self.config.temperature)
        others = drop_class(log_p, labels)
        # The sum over the other classes keeps 1 - p_t exact if p_t rounds to 1.
        share = others.logsumexp(dim=1, keepdim=True) - math.log(others.shape[1])
        return join_class(select_class(log_p, labels), share + torch.zeros_like(others), labels)
