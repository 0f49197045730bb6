"""Fewer blocks of the same kind (Shao et al. 2020)."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

from torch import nn

from stillhouse.spaces.blocks._site import Site, make_trainable
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Integers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.block import Block
from stillhouse.spaces.modules.cuts import output_shapes
from stillhouse.spaces.modules.network import Shape


class Shallower(Block):
    """Copies of ``depth`` of the teacher's blocks: all that change the shape, and some others.

    The others are evenly spread over the blocks that keep the shape. At full width only.
    """

    depth: int = setting(1, "how many of the teacher's blocks stay", Integers(1, 3), ge=1)

    def build(self, span: nn.Sequential, inputs: Shape, outputs: Shape) -> nn.Module:
        Site.from_span(span, inputs, outputs).require_full("shallower")
        if self.depth >= len(span):
            raise ConfigError(
                f"shallower: needs a depth below that of the {len(span)} blocks it replaces, "
                f"found {self.depth}"
            )
        chosen = self._kept_indices(span, inputs)
        return make_trainable(nn.Sequential(*(deepcopy(span[index]) for index in chosen)))

    def _kept_indices(self, span: nn.Sequential, inputs: Shape) -> list[int]:
        """The indices of the blocks that stay."""
        shape_pairs = pairwise((inputs, *output_shapes(list(span), inputs)))
        changing = [index for index, (before, after) in enumerate(shape_pairs) if before != after]
        others = [index for index in range(len(span)) if index not in changing]
        num_others = self.depth - len(changing)
        if num_others < 0:
            raise ConfigError(
                f"shallower: {len(changing)} of these blocks change the shape and have to stay, "
                f"found a depth of {self.depth}"
            )
        kept_others = [
            others[(2 * i + 1) * len(others) // (2 * num_others)] for i in range(num_others)
        ]
        return sorted(changing + kept_others)
