"""Recovery: how well the subclasses that a network invented are those that its data hides.

Mueller, Kornblith and Hinton 2020, section 4, teach digits merged into two classes of five and ask
whether the ten subclasses are the ten digits.
"""

from __future__ import annotations

import math

import scipy  # its parts when they are first used: a second, which a search need not wait for
import torch
from torch import Tensor

from stillhouse.spaces.modules.subclasses import by_class


def subclass_figures(
    logits: Tensor, labels: Tensor, subclasses: int, hidden: Tensor | None
) -> dict[str, float]:
    """Figures of a network with subclasses over a split of N examples.

    Args:
        logits: [N, classes * subclasses], float, class by class.
        labels: [N] int64, the classes that were taught.
        hidden: [N] int64, the classes that were merged; none where there were none.

    Returns:
        ``subclass_usage``: see :func:`usage`. With ``hidden`` also ``subclass_recovery``: the
        fraction of examples whose likeliest subclass is matched with their hidden class, by the
        best one-to-one matching; and ``subclass_majority``: the same where every subclass stands
        for the hidden class that is most frequent in it.
    """
    found = {"subclass_usage": usage(logits, labels, subclasses)}
    if hidden is not None:
        counts = _counts(logits.argmax(dim=1).cpu(), hidden.cpu(), logits.shape[1])
        rows, columns = scipy.optimize.linear_sum_assignment(counts.numpy(), maximize=True)
        total = counts.sum().item()
        found["subclass_recovery"] = counts[rows, columns].sum().item() / total
        found["subclass_majority"] = counts.max(dim=1).values.sum().item() / total
    return found


def subclass_names(*, hidden: bool) -> tuple[str, ...]:
    """Names of the figures of :func:`subclass_figures`, less their prefix ``subclass_``."""
    return ("usage", "recovery", "majority") if hidden else ("usage",)


def usage(logits: Tensor, labels: Tensor, subclasses: int) -> float:
    """How evenly the subclasses of a class are used, averaged over classes, from 0 to 1.

    The entropy of the mean subclass probabilities within a class, over the examples of that
    class, as a share of log S: 0 where one subclass stands for its class alone, so that the
    others are dead, 1 where all are used alike. Classes without examples do not count.
    """
    within = by_class(logits.float(), subclasses).softmax(dim=2)
    present = sorted(set(labels.tolist()))
    means = torch.stack([within[labels == c, c].double().mean(dim=0) for c in present])
    entropy = torch.special.entr(means).sum(dim=1).mean()
    return float(entropy) / math.log(subclasses)


def _counts(subclass: Tensor, hidden: Tensor, subclasses: int) -> Tensor:
    """[subclasses, hidden classes]: how often the one was answered where the other was true."""
    classes = int(hidden.max()) + 1
    places = subclass * classes + hidden
    return torch.bincount(places, minlength=subclasses * classes).view(subclasses, classes)
