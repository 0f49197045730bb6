"""Folding of batch norm into the convolutions of a frozen network.

``torch.fx.experimental.optimization`` is not a stable interface of torch; only this file uses it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse.spaces.modules.network import Network

_RELATIVE_TOLERANCE = 1e-3


def fold_batch_norm(network: Network, sample: Tensor) -> Network:
    """A network with the same outputs as ``network`` in eval mode, with fewer operations.

    Each block is folded separately, so taps still work; blocks without batch norm are shared with
    ``network``. A block that torch.fx cannot trace (its control flow depends on values) stays as it
    is. Every folded block is compared with the original on ``sample`` ([n, C, H, W] in 0..1). If it
    differs by more than a thousandth of the output range, the original stays, with a warning.
    """
    assert not network.training, "folding freezes statistics: call eval() first"
    result = network
    with torch.no_grad():
        x = (sample - network.mean) / network.std
        for index, (name, block) in enumerate(network.blocks.items()):
            # A block may write into its input.
            expected = block(x.clone())
            replacement = _fold_block(name, block, x, expected)
            if replacement is not None:
                result = result.swap(index, index + 1, replacement, name)
            x = expected
    return result


def fuse_blocks(network: Network, names: Iterable[str]) -> Network:
    """The network with these blocks folded, without a comparison; it must be in eval mode."""
    for name in names:
        index = network.names.index(name)
        network = network.swap(index, index + 1, fuse(network.blocks[name]).eval(), name)
    return network


def _fold_block(name: str, block: nn.Module, x: Tensor, expected: Tensor) -> nn.Module | None:
    if not any(isinstance(module, _BatchNorm) for module in block.modules()):
        return None
    try:
        replacement = fuse(block).eval()
    except Exception:
        # A block that cannot be traced still works without folding.
        return None
    error = (replacement(x.clone()) - expected).abs().max()
    if error <= _RELATIVE_TOLERANCE * expected.abs().max():
        return replacement
    warnings.warn(
        f"block {name!r} of a teacher runs without folded batch norm: folding it changes its "
        f"output by {error.item():.2g}, where {expected.abs().max().item():.2g} is the largest",
        stacklevel=2,
    )
    return None
