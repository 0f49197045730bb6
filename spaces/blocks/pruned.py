"""Copies of the teacher's blocks with fewer channels inside (Li et al. 2017; Liu et al. 2017)."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from stillhouse.spaces.blocks._prunable_channels import find_prunable_channels
from stillhouse.spaces.blocks._site import Site, make_trainable
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import scale_channels
from stillhouse.spaces.modules.network import Shape


class Pruned(Block):
    """The teacher's blocks and weights without their least important inner channels.

    The importance of a channel is the L1 norm of its filter times its scale in the batch norm.
    Channels inside residual blocks and between plain convolutions are pruned. At full width only.
    """

    ratio: float = setting(
        0.5, "share of the channels inside that stay", Choice((0.25, 0.5, 0.75)), gt=0.0, le=1.0
    )

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        Site.from_span(span, inputs, outputs).require_full("pruned")
        replacement = deepcopy(span)
        groups = tuple(find_prunable_channels(replacement))
        if not groups:
            raise ConfigError(f"pruned: these {len(span)} blocks have no channels of their own")
        for group in groups:
            group.prune(scale_channels(group.count, self.ratio))
        return make_trainable(replacement)
