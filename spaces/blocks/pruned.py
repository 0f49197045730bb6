"""Copies of the teacher's blocks with fewer channels inside (Li et al. 2017; Liu et al. 2017)."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from stillhouse.spaces.blocks._prunable_channels import joints
from stillhouse.spaces.blocks._site import Site, trainable
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import scaled
from stillhouse.spaces.modules.network import Shape


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
