"""Decoding of images (PNG, JPEG, WebP, ...) in parallel threads."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from stillhouse.methods.core.data.base.array_cache import cached_array
from stillhouse.methods.core.data.base.file_kinds import HEAD_BYTES, read_obstacle
from stillhouse.methods.core.data.base.source import Images, damaged_file_error, root_error
from stillhouse.spaces.config.problems import ConfigError

Mode = Literal["L", "RGB"]
_CHUNK_SIZE = 1024
_GREY_MODES = {"1", "L", "LA", "La"}
_EIGHT_BIT_MODES = _GREY_MODES | {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


_EXIF_TRANSPOSE: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that turns the image upright."""


@dataclass(frozen=True)
class EncodedImage:
    """The encoded bytes or the file of an image; ``name`` is for messages."""

    name: str
    content: bytes | Path


@dataclass(frozen=True)
class Decoder:
    """Decodes images to arrays of one shape.

    ``mode`` is grey (L) or colour (RGB); None keeps that of each image. ``size`` scales and crops
    every image to a centred square of so many pixels; None keeps its size. Images are turned
    upright by their EXIF orientation.
    """

    mode: Mode | None = None
    size: int | None = None

    def decode(self, item: EncodedImage) -> Images:
        """[H, W, C].

        Raises:
            ConfigError: the file is no image, or has more than eight bits per channel.
        """
        with _open_image(item) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise root_error(f"{item.name} has pixels of mode {image.mode}, not of 8 bits")
            image.load()
            converted = _turn_upright(image).convert(self.mode)
        if self.size is not None:
            target_size = (self.size, self.size)
            converted = ImageOps.fit(converted, target_size, method=Image.Resampling.BILINEAR)
        return np.asarray(converted).reshape(converted.height, converted.width, -1)

    def decode_chunks(self, items: Iterable[EncodedImage]) -> Iterator[Images]:
        """The images in order, in chunks [n, C, H, W].

        Raises:
            ConfigError: an image is damaged, or has another shape than the first.
        """
        items = iter(items)
        shape: tuple[int, ...] | None = None
        # Schedulers set the number of torch's threads to the cores of this process.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            while group := list(islice(items, _CHUNK_SIZE)):
                images = list(pool.map(self.decode, group))
                shape = shape or images[0].shape
                for item, image in zip(group, images, strict=True):
                    _check_shape(item, image.shape, shape)
                yield np.stack(images).transpose(0, 3, 1, 2)


def common_mode(items: Iterable[EncodedImage]) -> Mode:
    """Grey if every image is grey, else colour; reads headers up to the first colour image.

    Raises:
        ConfigError: an image is damaged.
    """
    return "L" if all(map(_is_grey, items)) else "RGB"


def cached_mode(key: str, items: Callable[[], Iterable[EncodedImage]]) -> Mode:
    """:func:`common_mode` of the images of ``key``, cached on this machine."""

    def make() -> NDArray[np.uint8]:
        return np.frombuffer(common_mode(items()).encode(), np.uint8)

    return "L" if cached_array(key, make).tobytes() == b"L" else "RGB"


def _is_grey(item: EncodedImage) -> bool:
    with _open_image(item) as image:
        return image.mode in _GREY_MODES


def _turn_upright(image: Image.Image) -> Image.Image:
    """The loaded image turned by its EXIF orientation; TIFF images are already turned."""
    try:
        transpose = _EXIF_TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # EXIF data may be damaged although the pixels are not
        return image
    return image if transpose is None else image.transpose(transpose)


@contextmanager
def _open_image(item: EncodedImage) -> Iterator[Image.Image]:
    content = item.content
    if isinstance(content, Path) and (problem := read_obstacle(content)):
        raise root_error(f"{content} {problem}")
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
            yield image
    except ConfigError:
        raise
    except Exception as error:  # readers raise many kinds of errors for damaged files
        if isinstance(content, Path):
            raise damaged_file_error(content, error, "image") from None
        raise damaged_file_error(item.name, error, "image", content[:HEAD_BYTES]) from None


def _check_shape(item: EncodedImage, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        sizes = f"{shape[1]}x{shape[0]} pixels where others are {expected[1]}x{expected[0]}"
        raise root_error(f"{item.name} is {sizes}; `size` brings all images to one size")
