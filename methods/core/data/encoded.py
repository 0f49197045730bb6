"""Encoded images (PNG, JPEG, WebP, ...) to arrays, in parallel threads."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from methods.core.data.source import Images, damaged, root_problem
from spaces.problem import ConfigError

Mode = Literal["L", "RGB"]
_CHUNK = 1024
_EIGHT_BITS = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


@dataclass(frozen=True)
class Encoded:
    """One image as a file holds it. ``name`` is for messages."""

    name: str
    content: bytes | Path


@dataclass(frozen=True)
class Decoder:
    """How encoded images become pixels, all of one shape.

    ``mode`` is grey (L) or colour (RGB), none for what the first image is; ``size`` cuts every
    image to a square, scaled and centred, of so many pixels, none for images as they are.
    """

    mode: Mode | None = None
    size: int | None = None

    def settled(self, first: Encoded) -> Decoder:
        """The same with the mode of the first image."""
        if self.mode is not None:
            return self
        with _opened(first) as image:
            return Decoder("L" if image.mode in ("1", "L", "LA") else "RGB", self.size)

    def pixels(self, item: Encoded) -> Images:
        """[H, W, C].

        Raises:
            ConfigError: no image, or one with more than eight bits a channel.
        """
        with _opened(item) as image:
            if image.mode not in _EIGHT_BITS:
                raise root_problem(f"{item.name} has pixels of mode {image.mode}, not of 8 bits")
            plain = image.convert(self.mode)
        if self.size is not None:
            square = (self.size, self.size)
            plain = ImageOps.fit(plain, square, method=Image.Resampling.BILINEAR)
        return np.asarray(plain).reshape(plain.height, plain.width, -1)

    def chunks(self, items: Iterable[Encoded]) -> Iterator[Images]:
        """The images in order, some at a time, each chunk [n, C, H, W].

        Raises:
            ConfigError: an image is broken, or has another shape than the first.
        """
        items = iter(items)
        shape: tuple[int, ...] | None = None
        # A scheduler tells torch how many cores this process may use.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            while group := list(islice(items, _CHUNK)):
                pixels = list(pool.map(self.pixels, group))
                shape = shape or pixels[0].shape
                for item, one in zip(group, pixels, strict=True):
                    _check_shape(item, one.shape, shape)
                yield np.stack(pixels).transpose(0, 3, 1, 2)


@contextmanager
def _opened(item: Encoded) -> Iterator[Image.Image]:
    content = item.content
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            yield image
    except ConfigError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # PIL reports some broken PNGs as a SyntaxError.
        raise damaged(item.name, error) from None


def _check_shape(item: Encoded, found: tuple[int, ...], first: tuple[int, ...]) -> None:
    if found != first:
        raise root_problem(
            f"{item.name} is {found[1]}x{found[0]} pixels where others are {first[1]}x{first[0]}; "
            f"`size` brings all images to one size"
        )
