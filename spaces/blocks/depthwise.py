"""Depthwise separable convolutions (Howard et al. 2017, section 3.1)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from stillhouse.spaces.blocks._site import Site, Stride, stack_units
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Integers
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import ConvUnit
from stillhouse.spaces.modules.network import Shape


class Depthwise(Block):
    """A k x k filter for each channel, then a 1x1 convolution that mixes them.

    The input is added where shapes and channels allow it.
    """

    kernel: Literal[3, 5, 7] = setting(3, "pixels of the filters' side", Choice((3, 5, 7)))
    depth: int = setting(1, "separable convolutions in a row", Integers(1, 3), ge=1)

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        return stack_units(Site.from_span(span, inputs, outputs), self.depth, self._layers)

    def _layers(self, inputs: int, outputs: int, stride: Stride) -> nn.Module:
        return nn.Sequential(
            ConvUnit(inputs, inputs, self.kernel, stride, groups=inputs),
            ConvUnit(inputs, outputs, kernel=1, activation=None),
        )
