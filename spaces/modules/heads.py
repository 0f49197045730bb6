"""Heads: classifiers on a network's inner blocks, each flattening what it reads into one Linear.

Asadian and Salehi-Abari 2021, "Distilling knowledge via intermediate classifier heads": the raw
map of a block, neither pooled nor normalised, then one linear layer to the classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import nn

from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.cuts import output_shapes
from stillhouse.spaces.modules.network import Network, Shape


def maps(network: Network, shape: Shape) -> dict[str, Shape]:
    """The blocks that give a map (channels, height, width), in order; nothing is computed."""
    named_shapes = zip(
        network.names, output_shapes(list(network.blocks.values()), shape), strict=True
    )
    return {name: (s[0], s[1], s[2]) for name, s in named_shapes if len(s) == 3}


def stage_ends(maps: Mapping[str, Shape]) -> tuple[str, ...]:
    """Of blocks that give maps, in order, the last of each run of one resolution."""
    names = list(maps)
    next_sizes = [maps[name][1:] for name in names[1:]] + [None]
    return tuple(n for n, size in zip(names, next_sizes, strict=True) if maps[n][1:] != size)


def with_linear_heads(
    network: Network, shape: Shape, classes: int, block_names: Iterable[str]
) -> Network:
    """``network`` with fresh heads on the blocks ``block_names``, from torch's global generator.

    Args:
        shape: of the images.

    Raises:
        ConfigError: no such block, or one that gives no map.
    """
    available = maps(network, shape)
    problems = [
        Problem("at", unknown_message("block that gives a map", n, available))
        for n in block_names
        if n not in available
    ]
    if problems:
        raise ConfigError(problems)
    heads = {
        n: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(available[n]), classes))
        for n in block_names
    }
    return network.with_heads(heads)
