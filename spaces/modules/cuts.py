"""Where a network may be cut, and the intervals between cuts, which are the planner's edges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.layers import scale_channels
from stillhouse.spaces.modules.network import Network, Shape, eval_mode


@dataclass(frozen=True, order=True)
class Interval:
    """Blocks ``start`` .. ``stop`` - 1 of a network, between two cuts."""

    start: int
    stop: int


def blank_input(shape: Shape, modules: Iterable[nn.Module]) -> Tensor:
    """One image or feature of zeros, with the dtype and the device of the modules' weights.

    On the meta device only shapes pass through modules. With weights, a pass takes less time than
    the second in which torch prepares for the meta device.
    """
    tensors = (t for m in modules for t in chain(m.parameters(), m.buffers()))
    reference = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    return reference.new_zeros((1, *shape))


def output_shapes(modules: Sequence[nn.Module], inputs: Shape) -> tuple[tuple[int, ...], ...]:
    """The shape of one image's feature after each of a chain of modules."""
    result = []
    x = blank_input(inputs, modules)
    with torch.no_grad():
        for module in modules:
            with eval_mode(module):
                x = module(x)
            result.append(tuple(x.shape[1:]) if isinstance(x, Tensor) else ())
    return tuple(result)


def cut_positions(network: Network, shape: Shape) -> dict[int, Shape]:
    """Cut -> shape of the feature there, for images of ``shape``; cut p lies before block p.

    A cut is possible where a single map [N, C, H, W] passes. The first block (stem) and the last
    (head) are never replaced, so cuts lie in 1 .. number of blocks - 1.
    """
    block_shapes = output_shapes(list(network.blocks.values())[:-1], shape)
    return {p: (s[0], s[1], s[2]) for p, s in enumerate(block_shapes, start=1) if len(s) == 3}


def intervals(
    positions: Collection[int], max_blocks: int, cuts: Sequence[int] | None = None
) -> tuple[Interval, ...]:
    """All intervals of at most ``max_blocks`` blocks between any two cuts, sorted.

    ``cuts`` restricts ``positions``. The first and the last position stay, because an assembly
    replaces every block between them.

    Raises:
        ConfigError: a cut outside ``positions``, or a gap longer than ``max_blocks``.
    """
    if max_blocks < 1:
        raise ConfigError(f"intervals need 1 block or more, found a longest of {max_blocks}")
    if len(positions) < 2:
        raise ConfigError(f"intervals need two cuts or more, found {sorted(positions)}")
    positions_allowed = sorted(positions)
    if cuts is not None:
        if unknown_cuts := sorted(set(cuts) - set(positions_allowed)):
            raise ConfigError(
                f"the network cannot be cut at {unknown_cuts[0]}; "
                f"allowed: {', '.join(map(str, positions_allowed))}"
            )
        positions_allowed = sorted({positions_allowed[0], *cuts, positions_allowed[-1]})
    for start, stop in pairwise(positions_allowed):
        if stop - start > max_blocks:
            raise ConfigError(
                f"no interval of at most {max_blocks} blocks leads from cut {start} to cut {stop}: "
                f"allow intervals of {stop - start} blocks, or a cut between the two"
            )
    return tuple(
        Interval(start, stop)
        for start in positions_allowed
        for stop in positions_allowed
        if 0 < stop - start <= max_blocks
    )


def narrowed_shape(shape: Shape, width: float) -> Shape:
    """The shape with a fraction ``width`` of the channels, at least one.

    Raises:
        ConfigError: ``width`` is not above 0 and at most 1.
    """
    if not 0.0 < width <= 1.0:
        raise ConfigError(f"the width of a boundary lies above 0 and is at most 1, found {width}")
    return scale_channels(shape[0], width), shape[1], shape[2]
