"""Copies of the teacher's blocks with fewer channels inside (Li et al. 2017; Liu et al. 2017)."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from spaces.block import Block
from spaces.blocks._joints import joints
from spaces.blocks._site import Site, trainable
from spaces.config import knob
from spaces.domain import Choice
from spaces.layers import scaled
from spaces.network import Shape
from spaces.problem import ConfigError


class Pruned(Block):
    """The teacher's blocks and weights, less the channels inside that matter least.

    A channel matters as the L1 norm of its filter times its scale in the batch norm says. Pruned
    are channels inside residual blocks and between plain convolutions. At full width only.
    """

    ratio: float = knob(
        0.5, "share of the channels inside that stay", Choice((0.25, 0.5, 0.75)), gt=0.0, le=1.0
    )

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        Site.of(span, inputs, outputs).require_full("pruned")
        replacement = deepcopy(span)
        places = tuple(joints(replacement))
        if not places:
            raise ConfigError(f"pruned: these {len(span)} blocks have no channels of their own")
        for joint in places:
            joint.prune(scaled(joint.channels, self.ratio))
        return trainable(replacement)
