"""Fewer blocks of the same kind (Shao et al. 2020)."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

from torch import nn

from stillhouse.spaces.blocks._site import Site, trainable
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Integers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.cuts import shapes
from stillhouse.spaces.modules.network import Shape


class Shallower(Block):
    """Copies of ``depth`` of the teacher's blocks: all that change the shape, and others.

    The others are evenly spread over those that could be left out. At full width only.
    """

    depth: int = knob(1, "how many of the teacher's blocks stay", Integers(1, 3), ge=1)

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        Site.of(span, inputs, outputs).require_full("shallower")
        if self.depth >= len(span):
            raise ConfigError(
                f"shallower: needs a depth below that of the {len(span)} blocks it replaces, "
                f"found {self.depth}"
            )
        chosen = self._chosen(span, inputs)
        return trainable(nn.Sequential(*(deepcopy(span[place]) for place in chosen)))

    def _chosen(self, span: nn.Sequential, inputs: Shape) -> list[int]:
        """The places of the blocks that stay."""
        path = pairwise((inputs, *shapes(list(span), inputs)))
        changing = [place for place, (before, after) in enumerate(path) if before != after]
        others = [place for place in range(len(span)) if place not in changing]
        free = self.depth - len(changing)
        if free < 0:
            raise ConfigError(
                f"shallower: {len(changing)} of these blocks change the shape and have to stay, "
                f"found a depth of {self.depth}"
            )
        spread = [others[(2 * i + 1) * len(others) // (2 * free)] for i in range(free)]
        return sorted(changing + spread)
