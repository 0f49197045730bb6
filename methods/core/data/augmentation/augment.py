"""Augmentation: flips, shifts, squares, or noise, for a whole batch at once on the device;
RandAugment and mixing stand in files of their own.

Every random choice belongs to an example and a view, not to a place in some batch: a view of the
training split is one fixed set of images, whatever the order or the batch size.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from stillhouse.methods.core.data.augmentation import MAX_MAGNITUDE
from stillhouse.methods.core.data.augmentation.mixing import Mix, draw_mix
from stillhouse.methods.core.data.augmentation.noise import normal_noise
from stillhouse.methods.core.data.base.rng import make_rng
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Choice, Integers, Uniform


class Augment(Config):
    """How training images are varied; nothing unless said."""

    flip: bool = setting(False, "mirror left and right half of the time", Choice((False, True)))
    crop: int = setting(0, "shift by up to so many pixels each way", Integers(0, 8), ge=0)
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
        "put a box of another image into each, and mix labels by its area, drawn so",
        Uniform(0.0, 1.0),
        ge=0.0,
    )
    randaugment: int = setting(
        0, "so many of RandAugment's changes to each image", Integers(0, 3), ge=0
    )
    magnitude: int = setting(
        9, "of RandAugment's changes", Integers(1, MAX_MAGNITUDE), ge=0, le=MAX_MAGNITUDE
    )
    views: int | None = setting(
        None, "so many fixed views, in turn, an epoch each; none means a new view every epoch", ge=1
    )
    noise: bool = setting(
        False, "Gaussian noise in place of each image: a student learns without data"
    )
    seed: int = setting(0, "from which all choices are drawn", ge=0)

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
        """Whether images are changed, rather than replaced."""
        sizes = (self.crop, self.cutout, self.mixup, self.cutmix, self.randaugment)
        return self.flip or any(size > 0 for size in sizes)

    @property
    def is_mixing(self) -> bool:
        """Whether examples are mixed with each other, which makes their labels soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def is_active(self) -> bool:
        """Whether any image is changed at all."""
        return self.changes_images or self.noise

    def identity(self) -> dict[str, Any]:
        """The plain data that decides every view."""
        fields = self.plain()
        # As views were called when there was none of these.
        for name in ("noise", "mixup", "cutmix", "randaugment"):
            if not fields[name]:
                del fields[name]
        if not self.randaugment:
            del fields["magnitude"]
        return fields

    def draw_view(self, view: int, examples: int, height: int, width: int) -> ViewChoices:
        """The choices of view number ``view`` for all ``examples`` of a split."""
        flip = shift = centre = noise = None
        if self.flip:
            flip = make_rng(self.seed, view, 0).randint(0, 2, examples).astype(bool)
        if self.crop:
            shift = make_rng(self.seed, view, 1).randint(-self.crop, self.crop + 1, (examples, 2))
        if self.cutout:
            # Uniform over the pixels, so that a square may hang over the border (section 3.1).
            centre = make_rng(self.seed, view, 2).randint(0, (height, width), (examples, 2))
        if self.noise:
            noise = make_rng(self.seed, view, 3).randint(0, 2**63 - 1, examples, dtype=np.int64)
        choices: tuple[Any, ...] = (flip, shift, centre, noise)
        return ViewChoices(*(None if part is None else _to_tensor(part) for part in choices))

    def draw_changes(self, view: int, examples: int) -> np.ndarray | None:
        """RandAugment's choices of a view, for the host; none where it is off."""
        if not self.randaugment:
            return None
        from stillhouse.methods.core.data.augmentation.randaugment import (
            draw_changes,  # torchvision takes a second
        )

        return draw_changes(make_rng(self.seed, view, 4), examples, self.randaugment)

    def draw_mix(self, view: int, examples: int, height: int, width: int) -> Mix | None:
        """With what the examples of a view are mixed; none where they are not."""
        if not self.is_mixing:
            return None
        entropy = (self.seed, view, 5)
        return draw_mix(self.mixup, self.cutmix, entropy, examples, height, width)


class ViewChoices(NamedTuple):
    """The choices for n examples; none where a kind of change is off."""

    flip: Tensor | None
    """[n], bool."""
    shift: Tensor | None
    """[n, 2], int64: rows and columns by which the window moves over the padded image."""
    centre: Tensor | None
    """[n, 2], int64: row and column of the cut-out square's centre."""
    noise: Tensor | None = None
    """[n], int64: what the noise that takes an image's place is drawn from."""

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
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] in 0..1, channels last, as ``view`` says.

    Images that are float already are in 0..1 as they come.

    The order is shift, flip, ``changes`` (RandAugment's, [B, k]), square. The square takes the
    value ``mean`` ([C], in 0..1), which a network's normalisation makes 0 (DeVries and Taylor 2017,
    section 3.2). Noise has this mean and the standard deviation ``std`` ([C]), so that it is
    standard normal after normalisation,
    and lies outside 0..1 as well.
    """
    if view.noise is not None:
        return (normal_noise(view.noise, tuple(images.shape[1:])) * std + mean).permute(0, 3, 1, 2)
    if view.flip is not None or view.shift is not None:
        images = _shift_and_flip(images, view, zero=augment.pad_mode == "zero")
    if changes is not None:
        from stillhouse.methods.core.data.augmentation.randaugment import apply_changes

        images = apply_changes(images, changes, augment.magnitude)
    x = images.to(torch.float32)
    if images.dtype == torch.uint8:
        x = x.div_(255)
    if view.centre is not None:
        x = torch.where(_cutout_mask(view.centre, augment.cutout, x), mean, x)
    return x.permute(0, 3, 1, 2)


def _shift_and_flip(images: Tensor, view: ViewChoices, zero: bool) -> Tensor:
    """Every output pixel fetched from where shift and flip say it comes from."""
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
        # One black pixel more, to which all that lies outside points.
        pixels = torch.cat([pixels, pixels.new_zeros(1, channels)])
        is_inside = _is_within(rows, height)[:, :, None] & _is_within(columns, width)[:, None, :]
        pixel_index = torch.where(is_inside, pixel_index, batch * height * width)
    return pixels.index_select(0, pixel_index.flatten()).view(images.shape)


def _is_within(positions: Tensor, size: int) -> Tensor:
    return (positions >= 0) & (positions < size)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Mirrored at the first and the last pixel, which are not repeated."""
    return (size - 1) - ((size - 1) - positions.abs()).abs()


def _cutout_mask(centre: Tensor, side: int, images: Tensor) -> Tensor:
    """[B, H, W, 1]: True on ``side`` rows and columns, half of them (rounded down) before."""
    _, height, width, _ = images.shape
    start = centre - side // 2
    rows = torch.arange(height, device=images.device) - start[:, :1]
    columns = torch.arange(width, device=images.device) - start[:, 1:]
    inside = _is_within(rows, side)[:, :, None] & _is_within(columns, side)[:, None, :]
    return inside[..., None]


def _to_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array)
