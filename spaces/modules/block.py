"""Base class of the kinds of replacement blocks."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from stillhouse.spaces.config.base import Config
from stillhouse.spaces.modules.network import Shape


class Block(Config):
    """A kind of replacement block: its settings and how to build it. One file in ``blocks`` each.

    ``version`` rises when the same settings build another block.
    """

    version: ClassVar[int] = 1

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        """A replacement for ``span``: [N, *inputs] -> [N, *outputs], trainable, in training mode.

        ``span`` holds the teacher's blocks at full width. It is neither changed nor shared.
        ``inputs`` and ``outputs`` are the shapes of the teacher's features at the two ends, or the
        same with fewer channels. New weights come from torch's global generator.

        Raises:
            ConfigError: blocks of this kind do not fit the span or the shapes.
        """
        raise NotImplementedError
