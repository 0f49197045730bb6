"""RandAugment (Cubuk et al. 2020, section 3): a few of fourteen changes, all of one magnitude.

The changes are torchvision's, over the ranges that its own RandAugment has. They are applied to
all images of a batch that have the same change at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

MOST_MAGNITUDE = 30
"""Of RandAugment's changes."""


_Change = Callable[[Tensor, float], Tensor]


def _sheared(x: Tensor, by: float, across: bool) -> Tensor:
    angle = math.degrees(math.atan(0.3 * by))
    shear = [angle, 0.0] if across else [0.0, angle]
    found: Tensor = tv.affine(x, 0.0, [0, 0], 1.0, shear, center=[0, 0])
    return found


def _shifted(x: Tensor, by: float, across: bool) -> Tensor:
    pixels = int(150.0 / 331.0 * x.shape[-1 if across else -2] * by)
    move = [pixels, 0] if across else [0, pixels]
    found: Tensor = tv.affine(x, 0.0, move, 1.0, [0.0, 0.0])
    return found


CHANGES: dict[str, tuple[_Change, bool]] = {
    "identity": (lambda x, _: x, False),
    "shear_x": (lambda x, m: _sheared(x, m, across=True), True),
    "shear_y": (lambda x, m: _sheared(x, m, across=False), True),
    "translate_x": (lambda x, m: _shifted(x, m, across=True), True),
    "translate_y": (lambda x, m: _shifted(x, m, across=False), True),
    "rotate": (lambda x, m: tv.rotate(x, 30.0 * m), True),
    "brightness": (lambda x, m: tv.adjust_brightness(x, 1.0 + 0.9 * m), True),
    "colour": (lambda x, m: tv.adjust_saturation(x, 1.0 + 0.9 * m), True),
    "contrast": (lambda x, m: tv.adjust_contrast(x, 1.0 + 0.9 * m), True),
    "sharpness": (lambda x, m: tv.adjust_sharpness(x, 1.0 + 0.9 * m), True),
    "posterize": (lambda x, m: tv.posterize(x, 8 - round(4 * m)), False),
    "solarize": (lambda x, m: tv.solarize(x, (1.0 - m) * _whole(x)), False),
    "autocontrast": (lambda x, _: tv.autocontrast(x), False),
    "equalize": (lambda x, _: tv.equalize(x), False),
}
"""Name -> what it does with images [B, C, H, W] and a magnitude in 0..1, and whether that may be
negative as well."""


def draw_changes(chance: np.random.RandomState, examples: int, changes: int) -> np.ndarray:
    """[examples, changes], int64: the number of each change, negative for a negative magnitude.

    Numbers begin at 1, so that each has a sign.
    """
    numbers = chance.randint(1, len(CHANGES) + 1, (examples, changes))
    signs = chance.randint(0, 2, (examples, changes)) * 2 - 1
    signed = np.array([signed for _, signed in CHANGES.values()])
    return np.where(signed[numbers - 1], numbers * signs, numbers)


def changed(images: Tensor, numbers: np.ndarray, magnitude: int) -> Tensor:
    """Images [B, H, W, C], each with its changes [B, k] one after the other; in the same format.

    Images are uint8 in 0..255 or float in 0..1. ``magnitude`` is in 0..30.

    ``numbers`` are on the host, as :func:`draw_changes` gives them: no device is waited for.
    """
    x = images.permute(0, 3, 1, 2)
    known = list(CHANGES.values())
    for column in numbers.T:
        parts = []
        for number in np.unique(column):
            places = _sent(np.flatnonzero(column == number), images.device)
            by = math.copysign(magnitude / MOST_MAGNITUDE, number)
            parts.append((places, known[abs(number) - 1][0](x.index_select(0, places), by)))
        x = torch.empty_like(x)
        for places, part in parts:
            x.index_copy_(0, places, part)
    return x.permute(0, 2, 3, 1)


def _sent(places: np.ndarray, device: torch.device) -> Tensor:
    found = torch.from_numpy(places)
    found = found.pin_memory() if device.type == "cuda" else found
    return found.to(device, non_blocking=True)


def _whole(images: Tensor) -> float:
    return 255.0 if images.dtype == torch.uint8 else 1.0
