"""Nothing at all, or as little as leads from one shape to the other."""

from __future__ import annotations

from torch import nn

from stillhouse.spaces.blocks._site import Site, projection
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import initialise
from stillhouse.spaces.modules.network import Shape


class Identity(Block):
    """The input as it is; where shapes or principal channels differ, a linear projection.

    The projection is an average pooling and a 1x1 convolution with batch norm.
    """

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        site = Site.from_span(span, inputs, outputs)
        if site.is_aligned:
            return nn.Identity()
        replacement = projection(site)
        initialise(replacement)
        return replacement
