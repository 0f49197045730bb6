"""Augmentation of a batch on the device: flips, shifts, squares, or noise.

RandAugment and mixing are in files of their own. Every random choice depends on the example and the
view, not on the batch. So an augmented view of the training split is a fixed set of images, for any
order and batch size.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from stillhouse.methods.core.data.augmentation.mixing import Mix, draw_mix
from stillhouse.methods.core.data.augmentation.noise import normal_noise
from stillhouse.methods.core.data.augmentation.randaugment import (
    MAX_MAGNITUDE,
    apply_changes,
    draw_changes,
)
from stillhouse.methods.core.data.base.rng import make_rng
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Choice, Integers, Uniform


class Augment(Config):
    """How training images are varied; by default they are not."""

    flip: bool = setting(False, "mirror left and right half of the time", Choice((False, True)))
    crop: int = setting(0, "largest shift in pixels, in each direction", Integers(0, 8), ge=0)
    pad_mode: Literal["zero", "reflect"] = setting(
        "zero", "what a shift brings in: black (He et al. 2016) or the mirrored border"
    )
    cutout: int = setting(0, "side in pixels of a square set to the mean", Integers(0, 16), ge=0)
    mixup: float = setting(
        0.0,
        "mix each image and label with another's by a share drawn from Beta(a, a), a is this",
        Uniform(0.0, 1.0),
        ge=0.0,
    )
    cutmix: float = setting(
        0.0,
        "put a box of another image into each and mix labels by its area, from Beta(a, a)",
        Uniform(0.0, 1.0),
        ge=0.0,
    )
    randaugment: int = setting(
        0, "number of RandAugment operations for each image", Integers(0, 3), ge=0
    )
    magnitude: int = setting(
        9, "of RandAugment's operations", Integers(1, MAX_MAGNITUDE), ge=0, le=MAX_MAGNITUDE
    )
    views: int | None = setting(
        None,
        "number of fixed views, one epoch each in turn; none means a new view every epoch",
        ge=1,
    )
    noise: bool = setting(
        False, "Gaussian noise in place of each image: a student learns without data"
    )
    seed: int = setting(0, "seed of all random choices", ge=0)

    @model_validator(mode="after")
    def _noise_is_all(self) -> Self:
        if self.noise and self.changes_images:
            raise ValueError(
                "noise leaves nothing of an image to change; leave out flip, crop, cutout, mixup, "
                "cutmix and randaugment"
            )
        return self

    @property
    def changes_images(self) -> bool:
        """Whether images are changed (noise replaces them)."""
        sizes = (self.crop, self.cutout, self.mixup, self.cutmix, self.randaugment)
        return self.flip or any(size > 0 for size in sizes)

    @property
    def is_mixing(self) -> bool:
        """Whether examples are mixed with each other, so that labels are soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def is_active(self) -> bool:
        """Whether images are changed or replaced."""
        return self.changes_images or self.noise

    def identity(self) -> dict[str, Any]:
        """The plain data that decides all views."""
        fields = self.plain()
        # Added later; at their defaults they are left out of the stage key.
        for name in ("noise", "mixup", "cutmix", "randaugment"):
            if not fields[name]:
                del fields[name]
        if not self.randaugment:
            del fields["magnitude"]
        return fields

    def draw_view(self, view: int, examples: int, height: int, width: int) -> ViewChoices:
        """The random choices of view number ``view`` for all ``examples`` of a split."""
        flip = shift = centre = noise = None
        if self.flip:
            flip = make_rng(self.seed, view, 0).randint(0, 2, examples).astype(bool)
        if self.crop:
            shift = make_rng(self.seed, view, 1).randint(-self.crop, self.crop + 1, (examples, 2))
        if self.cutout:
            # Uniform over the pixels; a square may exceed the border (section 3.1).
            centre = make_rng(self.seed, view, 2).randint(0, (height, width), (examples, 2))
        if self.noise:
            noise = make_rng(self.seed, view, 3).randint(0, 2**63 - 1, examples, dtype=np.int64)
        choices: tuple[Any, ...] = (flip, shift, centre, noise)
        return ViewChoices(*(None if part is None else torch.from_numpy(part) for part in choices))

    def draw_changes(self, view: int, examples: int) -> np.ndarray | None:
        """RandAugment's operations of a view, on the host; None if it is off."""
        if not self.randaugment:
            return None
        return draw_changes(make_rng(self.seed, view, 4), examples, self.randaugment)

    def draw_mix(self, view: int, examples: int, height: int, width: int) -> Mix | None:
        """The mixing of a view; None if examples are not mixed."""
        if not self.is_mixing:
            return None
        entropy = (self.seed, view, 5)
        return draw_mix(self.mixup, self.cutmix, entropy, examples, height, width)


class ViewChoices(NamedTuple):
    """The random choices for n examples; None for a kind of change that is off."""

    flip: Tensor | None
    """[n], bool."""
    shift: Tensor | None
    """[n, 2], int64: rows and columns by which the window moves over the padded image."""
    centre: Tensor | None
    """[n, 2], int64: row and column of the cut-out square's centre."""
    noise: Tensor | None = None
    """[n], int64: the seed of the noise that replaces an image."""

    def to(self, device: torch.device) -> ViewChoices:
        """The same choices on ``device``."""
        return ViewChoices(*(None if part is None else part.to(device) for part in self))

    def select(self, examples: Tensor) -> ViewChoices:
        """The choices of some examples."""
        return ViewChoices(
            *(None if part is None else part.index_select(0, examples) for part in self)
        )


UNCHANGED = ViewChoices(None, None, None)


def render(
    images: Tensor,
    view: ViewChoices,
    augment: Augment,
    mean: Tensor,
    std: Tensor,
    changes: np.ndarray | None = None,
) -> Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] in 0..1, channels last, with the given choices.

    Float images must be in 0..1. The order is shift, flip, ``changes`` (RandAugment's, [B, k]),
    square. The square has the value ``mean`` ([C], in 0..1), which is 0 after normalisation
    (DeVries and Taylor 2017, section 3.2). Noise has the mean ``mean`` and the standard deviation
    ``std`` ([C]), so it is standard normal after normalisation and may exceed 0..1.
    """
    if view.noise is not None:
        return (normal_noise(view.noise, tuple(images.shape[1:])) * std + mean).permute(0, 3, 1, 2)
    if view.flip is not None or view.shift is not None:
        images = _shift_and_flip(images, view, zero=augment.pad_mode == "zero")
    if changes is not None:
        images = apply_changes(images, changes, augment.magnitude)
    x = images.to(torch.float32)
    if images.dtype == torch.uint8:
        x = x.div_(255)
    if view.centre is not None:
        x = torch.where(_cutout_mask(view.centre, augment.cutout, x), mean, x)
    return x.permute(0, 3, 1, 2)


def _shift_and_flip(images: Tensor, view: ViewChoices, zero: bool) -> Tensor:
    """Shift and flip by one gather of pixels."""
    batch, height, width, channels = images.shape
    rows = torch.arange(height, device=images.device).expand(batch, -1)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    if view.flip is not None:
        columns = torch.where(view.flip[:, None], width - 1 - columns, columns)
    if view.shift is not None:
        rows = rows + view.shift[:, :1]
        columns = columns + view.shift[:, 1:]
    image_start = torch.arange(batch, device=images.device)[:, None, None] * (height * width)
    pixel_index = image_start + _reflect(rows, height)[:, :, None] * width
    pixel_index = pixel_index + _reflect(columns, width)[:, None, :]
    pixels = images.reshape(-1, channels)
    if zero and view.shift is not None:
        # An extra black pixel stands for all pixels outside.
        pixels = torch.cat([pixels, pixels.new_zeros(1, channels)])
        is_inside = _is_within(rows, height)[:, :, None] & _is_within(columns, width)[:, None, :]
        pixel_index = torch.where(is_inside, pixel_index, batch * height * width)
    return pixels.index_select(0, pixel_index.flatten()).view(images.shape)


def _is_within(positions: Tensor, size: int) -> Tensor:
    return (positions >= 0) & (positions < size)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Positions mirrored at the first and last pixel, which are not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def _cutout_mask(centre: Tensor, side: int, images: Tensor) -> Tensor:
    """[B, H, W, 1]: True on ``side`` rows and columns, half of them (rounded down) before."""
    _, height, width, _ = images.shape
    start = centre - side // 2
    rows = torch.arange(height, device=images.device) - start[:, :1]
    columns = torch.arange(width, device=images.device) - start[:, 1:]
    inside = _is_within(rows, side)[:, :, None] & _is_within(columns, side)[:, None, :]
    return inside[..., None]
