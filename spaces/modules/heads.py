"""Heads: linear classifiers on the flattened outputs of a network's intermediate blocks.

Asadian and Salehi-Abari 2021, "Distilling knowledge via intermediate classifier heads": one linear
layer to the classes on the map of a block, which is neither pooled nor normalised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import nn

from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.cuts import output_shapes
from stillhouse.spaces.modules.network import Network, Shape


def maps(network: Network, shape: Shape) -> dict[str, Shape]:
    """The blocks whose output is a map, in order: name -> (channels, height, width)."""
    named_shapes = zip(
        network.names, output_shapes(list(network.blocks.values()), shape), strict=True
    )
    return {name: (s[0], s[1], s[2]) for name, s in named_shapes if len(s) == 3}


def stage_ends(maps: Mapping[str, Shape]) -> tuple[str, ...]:
    """The last block of each run of equal resolution; ``maps`` is in the order of the blocks."""
    names = list(maps)
    next_sizes = [maps[name][1:] for name in names[1:]] + [None]
    return tuple(n for n, size in zip(names, next_sizes, strict=True) if maps[n][1:] != size)


def with_linear_heads(
    network: Network, shape: Shape, classes: int, block_names: Iterable[str]
) -> Network:
    """``network`` with new heads on ``block_names``, initialised from torch's global generator.

    Args:
        shape: shape of the images.

    Raises:
        ConfigError: no such block, or one whose output is not a map.
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
