"""Subclasses: a network that learns to split every class into a few subclasses.

The network has ``classes * S`` logits v, grouped by class. One more block sums the probabilities
of the S subclasses of each class:

    logit of class c = logsumexp_s v[c, s],  so that  softmax(logits)[c] = sum_s softmax(v)[c, s]

Mueller, Kornblith and Hinton 2020, "Subclass distillation", section 2. The output of the network
are the logits of classes; the logits of subclasses are the feature of the block before the last.
"""

from __future__ import annotations

from torch import Tensor, nn

from stillhouse.spaces.modules.network import Network

CLASS_BLOCK = "classes"
"""The name of the block that sums the subclasses of each class."""


class ClassLogits(nn.Module):
    """Logits [B, classes * S] of subclasses to logits [B, classes] of classes."""

    def __init__(self, subclasses: int) -> None:
        super().__init__()
        self.subclasses = subclasses

    def forward(self, logits: Tensor) -> Tensor:
        # The log of summed probabilities would be log 0 for very improbable classes.
        logits_fp32 = logits.float() if logits.dtype.itemsize < 4 else logits
        return group_by_class(logits_fp32, self.subclasses).logsumexp(dim=2)

    def extra_repr(self) -> str:
        return f"subclasses={self.subclasses}"


def group_by_class(logits: Tensor, subclasses: int) -> Tensor:
    """[B, classes, S] from [B, classes * S]."""
    return logits.reshape(-1, logits.shape[1] // subclasses, subclasses)


def with_subclasses(network: Network, subclasses: int) -> Network:
    """``network``, which has ``classes * subclasses`` logits, with logits of classes."""
    return network.with_block_appended(CLASS_BLOCK, ClassLogits(subclasses))


def num_subclasses(network: Network) -> int:
    """The number of subclasses of every class; 1 if the network has none."""
    last_block = network.blocks[network.names[-1]]
    return last_block.subclasses if isinstance(last_block, ClassLogits) else 1


def subclass_logits_block(network: Network) -> str:
    """The name of the block that returns the logits of subclasses; the head if there are none."""
    return network.names[-2] if num_subclasses(network) > 1 else network.names[-1]
