"""Subclass metrics: how well a network's subclasses match the classes that its data hides.

Mueller, Kornblith and Hinton 2020, section 4, merge digits into two classes of five and measure how
well the ten subclasses match the ten digits.
"""

from __future__ import annotations

import math

import scipy  # loads its parts at the first use, which takes a second
import torch
from torch import Tensor

from stillhouse.spaces.modules.subclasses import group_by_class


def compute_subclass_metrics(
    logits: Tensor, labels: Tensor, subclasses: int, hidden_labels: Tensor | None
) -> dict[str, float]:
    """Metrics of a network with subclasses over a split of N examples.

    Args:
        logits: [N, classes * subclasses], float, class by class.
        labels: [N] int64, the classes of the training labels.
        hidden_labels: [N] int64, the classes before they were merged; None without merging.

    Returns:
        ``subclass_usage``: see :func:`subclass_usage`. With ``hidden_labels`` also
        ``subclass_recovery``: the fraction of examples whose likeliest subclass is matched to
        their hidden class by the best one-to-one matching; and ``subclass_majority``: the same
        if every subclass is matched to its most frequent hidden class.
    """
    metrics = {"subclass_usage": subclass_usage(logits, labels, subclasses)}
    if hidden_labels is not None:
        confusion = _confusion_matrix(
            logits.argmax(dim=1).cpu(), hidden_labels.cpu(), logits.shape[1]
        )
        rows, columns = scipy.optimize.linear_sum_assignment(confusion.numpy(), maximize=True)
        total = confusion.sum().item()
        metrics["subclass_recovery"] = confusion[rows, columns].sum().item() / total
        metrics["subclass_majority"] = confusion.max(dim=1).values.sum().item() / total
    return metrics


def subclass_metric_names(*, has_hidden_labels: bool) -> tuple[str, ...]:
    """Names of :func:`compute_subclass_metrics`, without the prefix ``subclass_``."""
    return ("usage", "recovery", "majority") if has_hidden_labels else ("usage",)


def subclass_usage(logits: Tensor, labels: Tensor, subclasses: int) -> float:
    """How evenly the subclasses of a class are used, averaged over classes, from 0 to 1.

    It is the entropy of the mean subclass probabilities of a class, divided by log S. 0 means one
    subclass has all examples of its class; 1 means all are used equally. Classes without examples
    do not count.
    """
    probabilities = group_by_class(logits.float(), subclasses).softmax(dim=2)
    classes_present = sorted(set(labels.tolist()))
    means = torch.stack(
        [probabilities[labels == c, c].double().mean(dim=0) for c in classes_present]
    )
    entropy = torch.special.entr(means).sum(dim=1).mean()
    return float(entropy) / math.log(subclasses)


def _confusion_matrix(predicted: Tensor, hidden_labels: Tensor, subclasses: int) -> Tensor:
    """[subclasses, hidden classes]: number of examples by predicted subclass and hidden class."""
    classes = int(hidden_labels.max()) + 1
    cells = predicted * classes + hidden_labels
    return torch.bincount(cells, minlength=subclasses * classes).view(subclasses, classes)
