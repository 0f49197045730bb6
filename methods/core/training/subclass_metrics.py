"""Recovery: how well the subclasses that a network invented are those that its data hides.

Mueller, Kornblith and Hinton 2020, section 4, teach digits merged into two classes of five and ask
whether the ten subclasses are the ten digits.
"""

from __future__ import annotations

import math

import scipy  # its parts when they are first used: a second, which a search need not wait for
import torch
from torch import Tensor

from stillhouse.spaces.modules.subclasses import group_by_class


def compute_subclass_metrics(
    logits: Tensor, labels: Tensor, subclasses: int, hidden_labels: Tensor | None
) -> dict[str, float]:
    """Figures of a network with subclasses over a split of N examples.

    Args:
        logits: [N, classes * subclasses], float, class by class.
        labels: [N] int64, the classes that were taught.
        hidden: [N] int64, the classes that were merged; none where there were none.

    Returns:
        ``subclass_usage``: see :func:`subclass_usage`. With ``hidden_labels`` also
        ``subclass_recovery``: the fraction of examples whose likeliest subclass is matched with
        their hidden class, by the best one-to-one matching; and ``subclass_majority``: the same
        where every subclass stands for the hidden class that is most frequent in it.
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
    """Names of the figures of :func:`compute_subclass_metrics`, less their prefix ``subclass_``."""
    return ("usage", "recovery", "majority") if has_hidden_labels else ("usage",)


def subclass_usage(logits: Tensor, labels: Tensor, subclasses: int) -> float:
    """How evenly the subclasses of a class are used, averaged over classes, from 0 to 1.

    The entropy of the mean subclass probabilities within a class, over the examples of that
    class, as a share of log S: 0 where one subclass stands for its class alone, so that the
    others are dead, 1 where all are used alike. Classes without examples do not count.
    """
    probabilities = group_by_class(logits.float(), subclasses).softmax(dim=2)
    classes_present = sorted(set(labels.tolist()))
    means = torch.stack(
        [probabilities[labels == c, c].double().mean(dim=0) for c in classes_present]
    )
    entropy = torch.special.entr(means).sum(dim=1).mean()
    return float(entropy) / math.log(subclasses)


def _confusion_matrix(predicted: Tensor, hidden_labels: Tensor, subclasses: int) -> Tensor:
    """[subclasses, hidden classes]: how often the one was answered where the other was true."""
    classes = int(hidden_labels.max()) + 1
    cells = predicted * classes + hidden_labels
    return torch.bincount(cells, minlength=subclasses * classes).view(subclasses, classes)
