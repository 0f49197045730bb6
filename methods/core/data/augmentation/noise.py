"""Gaussian noise that belongs to an example, whatever batch, order or device it is drawn in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# SplitMix64's increment and factors, as signed numbers of 64 bits.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_BITS = 24
"""What a float32 holds of a number in 0..1."""


def normal(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[B, *shape], float32: standard normal, row b decided by ``seeds[b]`` alone.

    Torch's own generators draw a batch as one; a view needs each example's noise to be the same
    in every batch. So every pair of pixels has a number of 64 bits (SplitMix64, Steele et al.
    2014), and the pair is its Box-Muller transform (1958).

    Args:
        seeds: [B], int64.
    """
    size = math.prod(shape)
    pairs = torch.arange(1, (size + 1) // 2 + 1, device=seeds.device)
    bits = _mixed(seeds[:, None] + pairs * _STEP)
    radius = _fraction(bits >> (64 - _BITS)).log_().mul_(-2).sqrt_()
    angle = _fraction(bits).mul_(2 * math.pi)
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both[:, :size].reshape(-1, *shape)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right as without a sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _fraction(bits: Tensor) -> Tensor:
    """The lowest bits as a number above 0 and at most 1, whose logarithm is finite."""
    return ((bits & ((1 << _BITS) - 1)) + 1).to(torch.float32).div_(2**_BITS)
