"""Heads: classifiers on a network's inner blocks, each flattening what it reads into one Linear.

Asadian and Salehi-Abari 2021, "Distilling knowledge via intermediate classifier heads": the raw
map of a block, neither pooled nor normalised, then one linear layer to the classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import nn

from stillhouse.spaces.config.problems import ConfigError, Problem, unknown
from stillhouse.spaces.modules.cuts import shapes
from stillhouse.spaces.modules.network import Network, Shape


def maps(network: Network, shape: Shape) -> dict[str, Shape]:
    """The blocks that give a map (channels, height, width), in order; nothing is computed."""
    found = zip(network.names, shapes(list(network.blocks.values()), shape), strict=True)
    return {name: (s[0], s[1], s[2]) for name, s in found if len(s) == 3}


def stage_ends(maps: Mapping[str, Shape]) -> tuple[str, ...]:
    """Of blocks that give maps, in order, the last of each run of one resolution."""
    names = list(maps)
    following = [maps[name][1:] for name in names[1:]] + [None]
    return tuple(n for n, size in zip(names, following, strict=True) if maps[n][1:] != size)


def with_linear_heads(network: Network, shape: Shape, classes: int, at: Iterable[str]) -> Network:
    """``network`` with fresh heads on the blocks ``at``, from torch's global generator.

    Args:
        shape: of the images.

    Raises:
        ConfigError: no such block, or one that gives no map.
    """
    there = maps(network, shape)
    wrong = [
        Problem("at", unknown("block that gives a map", n, there)) for n in at if n not in there
    ]
    if wrong:
        raise ConfigError(wrong)
    heads = {n: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(there[n]), classes)) for n in at}
    return network.with_heads(heads)
