"""The teacher's own blocks, unchanged."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from stillhouse.spaces.blocks._site import Site, make_trainable
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.network import Shape


class Kept(Block):
    """A trainable copy of the teacher's blocks. At full width only."""

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        Site.from_span(span, inputs, outputs).require_full("kept")
        return make_trainable(deepcopy(span))
