"""Soft labels: distributions over classes, as logarithms so that no probability rounds to 0.

``rho`` is a label, ``q`` the student's distribution; both are [B, classes] of log probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def softened_log_probs(logits: Tensor, temperature: float) -> Tensor:
    """Log probabilities at a temperature, [B, classes]."""
    return F.log_softmax(logits / temperature, dim=1)


def kl_divergence(log_rho: Tensor, log_q: Tensor) -> Tensor:
    """KL(rho || q) of every example, in nats: [B]. A class with probability 0 in rho adds 0."""
    return F.kl_div(log_q, log_rho, log_target=True, reduction="none").sum(dim=1)


def distillation_loss(student: Tensor, labels: Sequence[Tensor], temperature: float) -> Tensor:
    """T^2 * KL(rho || softened student), averaged over the batch and over several labels.

    It is the cross entropy with rho less the entropy of rho, a constant without gradient.

    Args:
        student: logits [B, classes].
        labels: one log rho [B, classes] for each teacher.
    """
    log_q = softened_log_probs(student, temperature)
    return temperature**2 * torch.stack([kl_divergence(rho, log_q) for rho in labels]).mean()


def select_class(x: Tensor, classes: Tensor) -> Tensor:
    """[B]: the entry of its class from every row of [B, C]."""
    return x.gather(1, classes[:, None]).squeeze(1)


def drop_class(x: Tensor, classes: Tensor) -> Tensor:
    """[B, C - 1]: every row of [B, C] without the entry of its class, in order."""
    return x.gather(1, _other_class_indices(classes, x.shape[1]))


def join_class(own: Tensor, others: Tensor, classes: Tensor) -> Tensor:
    """[B, C]: the inverse of :func:`select_class` and :func:`drop_class`."""
    rows = others.new_empty(len(others), others.shape[1] + 1)
    rows.scatter_(1, _other_class_indices(classes, rows.shape[1]), others)
    return rows.scatter_(1, classes[:, None], own[:, None])


def _other_class_indices(classes: Tensor, count: int) -> Tensor:
    """[B, count - 1]: 0 .. count - 1 without each row's class."""
    indices = torch.arange(count - 1, device=classes.device).expand(len(classes), -1)
    return indices + (indices >= classes[:, None])
