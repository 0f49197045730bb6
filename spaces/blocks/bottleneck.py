"""Bottleneck blocks (He et al. 2016, figure 5)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from stillhouse.spaces.blocks._site import Site, Stride, stack_units
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Integers
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import ConvUnit, scale_channels
from stillhouse.spaces.modules.network import Shape


class Bottleneck(Block):
    """Reduce by 1x1, filter by k x k, expand by 1x1, beside a shortcut.

    The filter has the stride. Where the shape changes, the shortcut is a projection.
    """

    ratio: float = setting(
        0.25, "channels inside, over those outside", Choice((0.125, 0.25, 0.5)), gt=0.0, le=4.0
    )
    kernel: Literal[3, 5, 7] = setting(3, "pixels of the filter's side", Choice((3, 5)))
    depth: int = setting(1, "blocks in a row", Integers(1, 3), ge=1)

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        return stack_units(
            Site.from_span(span, inputs, outputs), self.depth, self._layers, project=True
        )

    def _layers(self, inputs: int, outputs: int, stride: Stride) -> nn.Module:
        inner = scale_channels(outputs, self.ratio)
        return nn.Sequential(
            ConvUnit(inputs, inner, kernel=1),
            ConvUnit(inner, inner, self.kernel, stride),
            ConvUnit(inner, outputs, kernel=1, activation=None),
        )
