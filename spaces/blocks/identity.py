"""The identity, or a linear projection where shapes differ."""

from __future__ import annotations

from torch import nn

from stillhouse.spaces.blocks._site import Site, projection
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.layers import initialise
from stillhouse.spaces.modules.network import Shape


class Identity(Block):
    """The unchanged input; a linear projection where shapes or principal channels differ.

    The projection is an average pooling and a 1x1 convolution with batch norm.
    """

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        site = Site.from_span(span, inputs, outputs)
        if site.is_aligned:
            return nn.Identity()
        replacement = projection(site)
        initialise(replacement)
        return replacement
