"""The specification of a block: its kind and settings, as an experiment file writes them."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from stillhouse.spaces.blocks import BLOCKS
from stillhouse.spaces.config.named import Named
from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.network import Shape


class BlockSpec(Named[Block]):
    """A kind of replacement block with its settings."""

    registry: ClassVar[PluginRegistry[Block]] = BLOCKS
    tag: ClassVar[str] = "kind"

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        """A replacement for ``span``, as :meth:`Block.build` makes it."""
        return self.settings.build(span, inputs, outputs)
