"""Gaussian noise that depends on the example only, not on batch, order or device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# SplitMix64's increment and factors, as signed numbers of 64 bits.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_FACTOR = 0x94D049BB133111EB - 2**64
_MANTISSA_BITS = 24
"""Bits of a float32 for a number in 0..1."""


def normal_noise(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[B, *shape], float32: standard normal; row b depends on ``seeds[b]`` only.

    Torch's generators draw a batch as a whole, but each example needs the same noise in every
    batch. So every pair of pixels has a number of 64 bits (SplitMix64, Steele et al. 2014), and its
    Box-Muller transform (1958) gives the pair.

    Args:
        seeds: [B], int64.
    """
    size = math.prod(shape)
    pairs = torch.arange(1, (size + 1) // 2 + 1, device=seeds.device)
    bits = _splitmix64(seeds[:, None] + pairs * _INCREMENT)
    radius = _to_unit_interval(bits >> (64 - _MANTISSA_BITS)).log_().mul_(-2).sqrt_()
    angle = _to_unit_interval(bits).mul_(2 * math.pi)
    samples = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return samples[:, :size].reshape(-1, *shape)


def _splitmix64(x: Tensor) -> Tensor:
    x = (x ^ _logical_shift_right(x, 30)) * _FIRST_FACTOR
    x = (x ^ _logical_shift_right(x, 27)) * _SECOND_FACTOR
    return x ^ _logical_shift_right(x, 31)


def _logical_shift_right(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that treats ``x`` as unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _to_unit_interval(bits: Tensor) -> Tensor:
    """The lowest bits as a number above 0 and at most 1, so its logarithm is finite."""
    return ((bits & ((1 << _MANTISSA_BITS) - 1)) + 1).to(torch.float32).div_(2**_MANTISSA_BITS)
