"""RandAugment (Cubuk et al. 2020, section 3): a few of fourteen operations of one magnitude.

The operations and their ranges are those of torchvision's RandAugment. Images of a batch with the
same operation are transformed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_MAGNITUDE = 30
"""Largest magnitude of RandAugment's operations."""


_Operation = Callable[[Tensor, float], Tensor]


@cache
def _tv() -> Any:
    """torchvision's transforms, imported at the first use: the import takes a second."""
    from torchvision.transforms.v2 import functional

    return functional


def _shear(x: Tensor, level: float, is_horizontal: bool) -> Tensor:
    angle = math.degrees(math.atan(0.3 * level))
    shear = [angle, 0.0] if is_horizontal else [0.0, angle]
    images: Tensor = _tv().affine(x, 0.0, [0, 0], 1.0, shear, center=[0, 0])
    return images


def _translate(x: Tensor, level: float, is_horizontal: bool) -> Tensor:
    pixels = int(150.0 / 331.0 * x.shape[-1 if is_horizontal else -2] * level)
    offset = [pixels, 0] if is_horizontal else [0, pixels]
    images: Tensor = _tv().affine(x, 0.0, offset, 1.0, [0.0, 0.0])
    return images


OPERATIONS: dict[str, tuple[_Operation, bool]] = {
    "identity": (lambda x, _: x, False),
    "shear_x": (lambda x, m: _shear(x, m, is_horizontal=True), True),
    "shear_y": (lambda x, m: _shear(x, m, is_horizontal=False), True),
    "translate_x": (lambda x, m: _translate(x, m, is_horizontal=True), True),
    "translate_y": (lambda x, m: _translate(x, m, is_horizontal=False), True),
    "rotate": (lambda x, m: _tv().rotate(x, 30.0 * m), True),
    "brightness": (lambda x, m: _tv().adjust_brightness(x, 1.0 + 0.9 * m), True),
    "colour": (lambda x, m: _tv().adjust_saturation(x, 1.0 + 0.9 * m), True),
    "contrast": (lambda x, m: _tv().adjust_contrast(x, 1.0 + 0.9 * m), True),
    "sharpness": (lambda x, m: _tv().adjust_sharpness(x, 1.0 + 0.9 * m), True),
    "posterize": (lambda x, m: _tv().posterize(x, 8 - round(4 * m)), False),
    "solarize": (lambda x, m: _tv().solarize(x, (1.0 - m) * _max_value(x)), False),
    "autocontrast": (lambda x, _: _tv().autocontrast(x), False),
    "equalize": (lambda x, _: _tv().equalize(x), False),
}
"""Name -> function of images [B, C, H, W] and a magnitude in 0..1, and whether the magnitude may
be negative."""


def draw_changes(rng: np.random.RandomState, examples: int, num_changes: int) -> np.ndarray:
    """[examples, num_changes], int64: numbers of operations, negative for a negative magnitude.

    Numbers start at 1, so that each has a sign.
    """
    numbers = rng.randint(1, len(OPERATIONS) + 1, (examples, num_changes))
    signs = rng.randint(0, 2, (examples, num_changes)) * 2 - 1
    is_signed = np.array([is_signed for _, is_signed in OPERATIONS.values()])
    return np.where(is_signed[numbers - 1], numbers * signs, numbers)


def apply_changes(images: Tensor, numbers: np.ndarray, magnitude: int) -> Tensor:
    """Apply the operations ``numbers`` [B, k] of :func:`draw_changes` to images [B, H, W, C].

    Images are uint8 in 0..255 or float in 0..1; ``magnitude`` is in 0..30. ``numbers`` are on the
    host, so the host does not wait for the device.
    """
    x = images.permute(0, 3, 1, 2)
    operations = list(OPERATIONS.values())
    for column in numbers.T:
        parts = []
        for number in np.unique(column):
            rows = _to_device(np.flatnonzero(column == number), images.device)
            level = math.copysign(magnitude / MAX_MAGNITUDE, number)
            parts.append((rows, operations[abs(number) - 1][0](x.index_select(0, rows), level)))
        x = torch.empty_like(x)
        for rows, part in parts:
            x.index_copy_(0, rows, part)
    return x.permute(0, 2, 3, 1)


def _to_device(rows: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(rows)
    tensor = tensor.pin_memory() if device.type == "cuda" else tensor
    return tensor.to(device, non_blocking=True)


def _max_value(images: Tensor) -> float:
    return 255.0 if images.dtype == torch.uint8 else 1.0
