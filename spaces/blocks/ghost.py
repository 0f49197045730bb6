"""Ghost modules: cheap features from a few expensive ones (Han et al. 2020, section 3.1)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from stillhouse.spaces.blocks._site import Site, Stride, stack_units
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Integers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import ConvUnit, GhostModule
from stillhouse.spaces.modules.network import Shape


class Ghost(Block):
    """One channel in ``ratio`` from a 1x1 convolution, the others from k x k filters of those.

    Where the size changes, a strided filter of each channel comes first (section 3.2). The input
    is added where shapes and channels allow it.
    """

    ratio: int = setting(2, "channels for each that is convolved in full", Integers(2, 4), ge=2)
    kernel: Literal[3, 5, 7] = setting(3, "pixels of the cheap filters' side", Choice((3, 5)))
    depth: int = setting(1, "modules in a row", Integers(1, 3), ge=1)

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        site = Site.from_span(span, inputs, outputs)
        if outputs[0] < self.ratio:
            raise ConfigError(
                f"ghost: a ratio of {self.ratio} needs as many channels, found {outputs[0]}"
            )
        return stack_units(site, self.depth, self._layers)

    def _layers(self, inputs: int, outputs: int, stride: Stride) -> nn.Module:
        module = GhostModule(inputs, outputs, self.ratio, self.kernel)
        if stride == (1, 1):
            return module
        filters = ConvUnit(inputs, inputs, self.kernel, stride, groups=inputs, activation=None)
        return nn.Sequential(filters, module)
