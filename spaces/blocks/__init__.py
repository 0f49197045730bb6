"""Kinds of replacement blocks, one a file."""

from __future__ import annotations

from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.modules.block import Block

BLOCKS: PluginRegistry[Block] = PluginRegistry("stillhouse.spaces.blocks", Block, "kind of block")
