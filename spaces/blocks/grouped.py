"""Grouped convolutions (Xie et al. 2017), mixed by a channel shuffle (Zhang et al. 2018)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from stillhouse.spaces.blocks._site import Site, Stride, stack_units
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Integers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import ConvUnit
from stillhouse.spaces.modules.network import Shape


class Grouped(Block):
    """A k x k convolution within groups of channels, then a 1x1 convolution across them.

    With ``shuffle`` the 1x1 convolution is grouped too, after a shuffle of the channels. The input
    is added where shapes and channels allow it.
    """

    groups: int = setting(4, "groups of channels; divides their number", Choice((2, 4, 8)), ge=2)
    kernel: Literal[3, 5, 7] = setting(3, "pixels of the filters' side", Choice((3, 5)))
    mixing: Literal["pointwise", "shuffle"] = setting(
        "pointwise", "how the groups meet", Choice(("pointwise", "shuffle"))
    )
    depth: int = setting(1, "such pairs in a row", Integers(1, 3), ge=1)

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        site = Site.from_span(span, inputs, outputs)
        if inputs[0] % self.groups or outputs[0] % self.groups:
            raise ConfigError(
                f"grouped: {self.groups} groups need multiples of {self.groups} channels at both "
                f"ends, found {inputs[0]} and {outputs[0]}"
            )
        return stack_units(site, self.depth, self._layers)

    def _layers(self, inputs: int, outputs: int, stride: Stride) -> nn.Module:
        within = ConvUnit(inputs, outputs, self.kernel, stride, self.groups)
        if self.mixing == "pointwise":
            return nn.Sequential(within, ConvUnit(outputs, outputs, kernel=1, activation=None))
        across = ConvUnit(outputs, outputs, kernel=1, groups=self.groups, activation=None)
        return nn.Sequential(within, nn.ChannelShuffle(self.groups), across)
