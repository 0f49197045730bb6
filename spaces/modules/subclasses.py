"""Subclasses: a network that splits every class into a few of its own invention.

It is built for ``classes * S`` logits v, class by class, and ends in one more block, which sums
the probabilities of each class's S subclasses:

    logit of class c = logsumexp_s v[c, s],  so that  softmax(logits)[c] = sum_s softmax(v)[c, s]

Mueller, Kornblith and Hinton 2020, "Subclass distillation", section 2. For whoever asks for logits
it is a network like any other; the subclasses' logits are the feature of the block before the last.
"""

from __future__ import annotations

from torch import Tensor, nn

from stillhouse.spaces.modules.network import Network

CLASS_BLOCK = "classes"
"""The name of the block that sums subclasses up."""


class ClassLogits(nn.Module):
    """From logits [B, classes * S] of subclasses to logits [B, classes] of classes."""

    def __init__(self, subclasses: int) -> None:
        super().__init__()
        self.subclasses = subclasses

    def forward(self, logits: Tensor) -> Tensor:
        # A log of summed probabilities would be that of 0 where a class is far behind.
        logits_fp32 = logits.float() if logits.dtype.itemsize < 4 else logits
        return group_by_class(logits_fp32, self.subclasses).logsumexp(dim=2)

    def extra_repr(self) -> str:
        return f"subclasses={self.subclasses}"


def group_by_class(logits: Tensor, subclasses: int) -> Tensor:
    """[B, classes, S] from [B, classes * S]."""
    return logits.reshape(-1, logits.shape[1] // subclasses, subclasses)


def with_subclasses(network: Network, subclasses: int) -> Network:
    """The network, built for ``classes * subclasses`` logits, as one of ``classes``."""
    return network.with_block_appended(CLASS_BLOCK, ClassLogits(subclasses))


def num_subclasses(network: Network) -> int:
    """How many subclasses a network splits every class into; 1 where it does not."""
    last_block = network.blocks[network.names[-1]]
    return last_block.subclasses if isinstance(last_block, ClassLogits) else 1


def subclass_logits_block(network: Network) -> str:
    """The name of the block whose output are the logits of subclasses: the head itself where
    there are none."""
    return network.names[-2] if num_subclasses(network) > 1 else network.names[-1]
