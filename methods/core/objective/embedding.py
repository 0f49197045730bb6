"""Embeddings, the inputs of a network's head, and their geometry within a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stillhouse.methods.core.objective.method import BuildContext, Method
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network, Output
from stillhouse.spaces.modules.subclasses import subclass_logits_block

_MIN_LENGTH = 1e-12
"""Shorter vectors have no direction: a division by the length would give huge gradients."""


class EmbeddingMethod(Method):
    """A method that compares the input of the student's head with those of the teachers' heads.

    The widths of the embeddings may differ.
    """

    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        self._student_tap = block_before_head(context.student)
        self._teacher_taps = [block_before_head(teacher) for teacher in context.teachers]

    def student_taps(self) -> tuple[str, ...]:
        return (self._student_tap,)

    def teacher_taps(self, teacher: int) -> tuple[str, ...]:
        return (self._teacher_taps[teacher],)

    def head_inputs(
        self, student: Output, teachers: Sequence[Output]
    ) -> tuple[Tensor, list[Tensor]]:
        """The student's and every teacher's last features, unpooled: [B, C, H, W] or [B, C]."""
        teacher_outputs = zip(teachers, self._teacher_taps, strict=True)
        return student.features[self._student_tap], [t.features[tap] for t, tap in teacher_outputs]

    def embeddings(
        self, student: Output, teachers: Sequence[Output]
    ) -> tuple[Tensor, list[Tensor]]:
        """The same, averaged over positions: [B, C] each; C depends on the network."""
        student_features, teacher_features = self.head_inputs(student, teachers)
        return global_average(student_features), [
            global_average(features) for features in teacher_features
        ]


def block_before_head(network: Network) -> str:
    """The name of the block before the head.

    Raises:
        ConfigError: the network has no block before its head.
    """
    head = network.names.index(subclass_logits_block(network))
    if head == 0:
        raise ConfigError(
            f"compares the inputs of heads, but a network has one block only "
            f"({network.names[0]!r}); choose one with a block before its head"
        )
    return network.names[head - 1]


def global_average(features: Tensor) -> Tensor:
    """[B, C] from [B, C, ...]: the mean over all positions."""
    return features.flatten(2).mean(dim=2) if features.dim() > 2 else features


def embedding_width(network: Network, sample: Tensor) -> int:
    """The width C of the network's embeddings; runs it on ``sample`` [n, C, H, W]."""
    tap = block_before_head(network)
    with torch.no_grad():
        return global_average(network(sample, (tap,)).features[tap]).shape[1]


def pairwise_distances(x: Tensor) -> Tensor:
    """[B, B] Euclidean distances between rows of [B, C]; a distance of 0 has no gradient.

    They come from differences. The form |a|^2 + |b|^2 - 2ab cancels in float32 and would give
    equal rows a distance above 0.
    """
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


def unit_vectors(x: Tensor) -> Tensor:
    """Vectors along the last axis scaled to length 1; a zero vector stays 0 without gradient."""
    length = x.square().sum(dim=-1, keepdim=True)
    has_direction = length > _MIN_LENGTH**2
    return torch.where(has_direction, x * torch.where(has_direction, length, 1.0).rsqrt(), 0.0)


def safe_divide(x: Tensor, scale: Tensor) -> Tensor:
    """``x / scale``, or ``x`` where the scale is 0."""
    return x / torch.where(scale > 0, scale, 1.0)
