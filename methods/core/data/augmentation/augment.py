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

from stillhouse.methods.core.data.augmentation.mixing import Mix, draw_mix
from stillhouse.methods.core.data.augmentation.noise import normal
from stillhouse.methods.core.data.augmentation.randaugment import MOST_MAGNITUDE
from stillhouse.methods.core.data.base.rng import generator
from stillhouse.spaces.config.base import Config, knob
from stillhouse.spaces.config.domains import Choice, Integers, Uniform


class Augment(Config):
    """How training images are varied; nothing unless said."""

    flip: bool = knob(False, "mirror left and right half of the time", Choice((False, True)))
    crop: int = knob(0, "shift by up to so many pixels each way", Integers(0, 8), ge=0)
    pad_mode: Literal["zero", "reflect"] = knob(
        "zero", "what a shift brings in: black (He et al. 2016) or the mirrored border"
    )
    cutout: int = knob(0, "side in pixels of a square set to the mean", Integers(0, 16), ge=0)
    mixup: float = knob(
        0.0,
        "mix each image and label with another's by a share drawn from Beta(a, a), a is this",
        Uniform(0.0, 1.0),
        ge=0.0,
    )
    cutmix: float = knob(
        0.0,
        "put a box of another image into each, and mix labels by its area, drawn so",
        Uniform(0.0, 1.0),
        ge=0.0,
    )
    randaugment: int = knob(
        0, "so many of RandAugment's changes to each image", Integers(0, 3), ge=0
    )
    magnitude: int = knob(
        9, "of RandAugment's changes", Integers(1, MOST_MAGNITUDE), ge=0, le=MOST_MAGNITUDE
    )
    views: int | None = knob(
        None, "so many fixed views, in turn, an epoch each; none means a new view every epoch", ge=1
    )
    noise: bool = knob(
        False, "Gaussian noise in place of each image: a student learns without data"
    )
    seed: int = knob(0, "from which all choices are drawn", ge=0)

    @model_validator(mode="after")
    def _noise_is_all(self) -> Self:
        if self.noise and self.active_beside_noise:
            raise ValueError(
                "noise leaves nothing of an image to change; leave out flip, crop, cutout, mixup, "
                "cutmix and randaugment"
            )
        return self

    @property
    def active_beside_noise(self) -> bool:
        """Whether images are changed, rather than replaced."""
        sizes = (self.crop, self.cutout, self.mixup, self.cutmix, self.randaugment)
        return self.flip or any(size > 0 for size in sizes)

    @property
    def mixes(self) -> bool:
        """Whether examples are mixed with each other, which makes their labels soft."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def active(self) -> bool:
        """Whether any image is changed at all."""
        return self.active_beside_noise or self.noise

    def identity(self) -> dict[str, Any]:
        """The plain data that decides every view."""
        told = self.plain()
        # As views were called when there was none of these.
        for name in ("noise", "mixup", "cutmix", "randaugment"):
            if not told[name]:
                del told[name]
        if not self.randaugment:
            del told["magnitude"]
        return told

    def draw(self, view: int, examples: int, height: int, width: int) -> View:
        """The choices of view number ``view`` for all ``examples`` of a split."""
        flip = shift = centre = noise = None
        if self.flip:
            flip = generator(self.seed, view, 0).randint(0, 2, examples).astype(bool)
        if self.crop:
            shift = generator(self.seed, view, 1).randint(-self.crop, self.crop + 1, (examples, 2))
        if self.cutout:
            # Uniform over the pixels, so that a square may hang over the border (section 3.1).
            centre = generator(self.seed, view, 2).randint(0, (height, width), (examples, 2))
        if self.noise:
            noise = generator(self.seed, view, 3).randint(0, 2**63 - 1, examples, dtype=np.int64)
        found: tuple[Any, ...] = (flip, shift, centre, noise)
        return View(*(None if part is None else _tensor(part) for part in found))

    def draw_changes(self, view: int, examples: int) -> np.ndarray | None:
        """RandAugment's choices of a view, for the host; none where it is off."""
        if not self.randaugment:
            return None
        from stillhouse.methods.core.data.augmentation.randaugment import (
            draw_changes,  # torchvision takes a second
        )

        return draw_changes(generator(self.seed, view, 4), examples, self.randaugment)

    def draw_mix(self, view: int, examples: int, height: int, width: int) -> Mix | None:
        """With what the examples of a view are mixed; none where they are not."""
        if not self.mixes:
            return None
        words = (self.seed, view, 5)
        return draw_mix(self.mixup, self.cutmix, words, examples, height, width)


class View(NamedTuple):
    """The choices for n examples; none where a kind of change is off."""

    flip: Tensor | None
    """[n], bool."""
    shift: Tensor | None
    """[n, 2], int64: rows and columns by which the window moves over the padded image."""
    centre: Tensor | None
    """[n, 2], int64: row and column of the cut-out square's centre."""
    noise: Tensor | None = None
    """[n], int64: what the noise that takes an image's place is drawn from."""

    def to(self, device: torch.device) -> View:
        """The same choices on ``device``."""
        return View(*(None if part is None else part.to(device) for part in self))

    def of(self, examples: Tensor) -> View:
        """The choices of some examples."""
        return View(*(None if part is None else part.index_select(0, examples) for part in self))


UNCHANGED = View(None, None, None)


def render(
    images: Tensor,
    view: View,
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
        return (normal(view.noise, tuple(images.shape[1:])) * std + mean).permute(0, 3, 1, 2)
    if view.flip is not None or view.shift is not None:
        images = _moved(images, view, zero=augment.pad_mode == "zero")
    if changes is not None:
        from stillhouse.methods.core.data.augmentation.randaugment import changed

        images = changed(images, changes, augment.magnitude)
    x = images.to(torch.float32)
    if images.dtype == torch.uint8:
        x = x.div_(255)
    if view.centre is not None:
        x = torch.where(_square(view.centre, augment.cutout, x), mean, x)
    return x.permute(0, 3, 1, 2)


def _moved(images: Tensor, view: View, zero: bool) -> Tensor:
    """Every output pixel fetched from where shift and flip say it comes from."""
    batch, height, width, channels = images.shape
    rows = torch.arange(height, device=images.device).expand(batch, -1)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    if view.flip is not None:
        columns = torch.where(view.flip[:, None], width - 1 - columns, columns)
    if view.shift is not None:
        rows = rows + view.shift[:, :1]
        columns = columns + view.shift[:, 1:]
    first = torch.arange(batch, device=images.device)[:, None, None] * (height * width)
    source = first + _reflected(rows, height)[:, :, None] * width
    source = source + _reflected(columns, width)[:, None, :]
    pixels = images.reshape(-1, channels)
    if zero and view.shift is not None:
        # One black pixel more, to which all that lies outside points.
        pixels = torch.cat([pixels, pixels.new_zeros(1, channels)])
        inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        source = torch.where(inside, source, batch * height * width)
    return pixels.index_select(0, source.flatten()).view(images.shape)


def _within(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Mirrored at the first and the last pixel, which are not repeated."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def _square(centre: Tensor, side: int, images: Tensor) -> Tensor:
    """[B, H, W, 1]: True on ``side`` rows and columns, half of them (rounded down) before."""
    _, height, width, _ = images.shape
    start = centre - side // 2
    rows = torch.arange(height, device=images.device) - start[:, :1]
    columns = torch.arange(width, device=images.device) - start[:, 1:]
    inside = _within(rows, side)[:, :, None] & _within(columns, side)[:, None, :]
    return inside[..., None]


def _tensor(part: np.ndarray) -> Tensor:
    return torch.from_numpy(part)
