"""The images and labels of a source, read once per process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from stillhouse.methods.core.data.base.array_cache import cached_images
from stillhouse.methods.core.data.base.image_store import ImageStore
from stillhouse.methods.core.data.base.source import (
    Images,
    Labels,
    Part,
    Source,
    SourceInfo,
    root_error,
)
from stillhouse.methods.core.data.base.splits import Splits, SplitSpec, make_splits
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Shape

_CHUNK_ROWS = 4096


class DecodedSource:
    """The content of one source, with images scaled to ``resize`` pixels a side if that is set.

    Decoded images of sources with files are cached on the disk (see ``array_cache``).
    """

    def __init__(self, source: Source, digest: str, resize: int | None) -> None:
        self.source = source
        self.content_fingerprint = digest
        self.resize = resize
        self._labels: dict[Part, Labels] = {}
        self._pixels: dict[Part, ImageStore] = {}
        self._splits: dict[SplitSpec, Splits] = {}
        self._channel_statistics: dict[SplitSpec, tuple[tuple[float, ...], tuple[float, ...]]] = {}

    @cached_property
    def info(self) -> SourceInfo:
        """Shape, classes and normalisation of the source."""
        return self.source.info()

    @property
    def shape(self) -> Shape:
        """(channels, height, width), after scaling."""
        channels, height, width = self.info.shape
        return (channels, self.resize or height, self.resize or width)

    def labels(self, part: Part) -> Labels:
        """[N] int64.

        Raises:
            ConfigError: an unknown label, no training examples, or all of one class.
        """
        if part not in self._labels:
            labels = self.source.labels(part)
            classes = len(self.info.class_names)
            if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
                label_range = f"{labels.min()} to {labels.max()}"
                message = f"the {part} labels are {label_range} where there are {classes} classes"
                raise self._source_error(message)
            if part == "train":
                self._check_training_labels(labels)
            self._labels[part] = labels
        return self._labels[part]

    def _check_training_labels(self, labels: Labels) -> None:
        if not len(labels):
            raise self._source_error("the training part holds no examples")
        if (labels == labels[0]).all():
            name = self.info.class_names[labels[0]]
            message = f"all {len(labels)} training examples are of one class, {name!r}"
            raise self._source_error(f"{message}; a classifier needs examples of two or more")

    def image_store(self, part: Part) -> ImageStore:
        """The images, decoded at the first call on this machine."""
        if part not in self._pixels:
            channels, height, width = self.shape
            shape = (len(self.labels(part)), height, width, channels)
            self._pixels[part] = ImageStore(self._images(part, shape))
        return self._pixels[part]

    def example_store(self, part: Part, spec: SplitSpec) -> ImageStore:
        """The store of a part's examples; for images it does not depend on ``spec``."""
        return self.image_store(part)

    def embedding_space(self, spec: SplitSpec) -> str | None:
        """The name of the embedding space of texts; None for images.

        Networks can share inputs only if their embedding spaces are equal.
        """
        return None

    def splits(self, spec: SplitSpec) -> Splits:
        """The splits of ``spec``."""
        if spec not in self._splits:
            self._splits[spec] = make_splits(self.labels("train"), self.labels("test"), spec)
        return self._splits[spec]

    def channel_statistics(self, spec: SplitSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over the training split, images in 0..1."""
        if spec not in self._channel_statistics:
            images = self.image_store("train").images.numpy()
            self._channel_statistics[spec] = channel_statistics(images, self.splits(spec).train)
        return self._channel_statistics[spec]

    def _images(self, part: Part, shape: tuple[int, int, int, int]) -> Images:
        if not shape[0]:
            return np.empty(shape, np.uint8)
        if not self.source.files():
            return np.concatenate(list(self._chunks(part, shape)))
        source_identity = [
            type(self.source).__name__,
            self.source.settings(),
            self.source.effective_version(),
        ]
        key = fingerprint([*source_identity, self.content_fingerprint, self.resize, part])
        return cached_images(key, shape, lambda: self._chunks(part, shape))

    def _chunks(self, part: Part, shape: tuple[int, ...]) -> Iterator[Images]:
        """Chunks [n, H, W, C], scaled; together they have the shape ``shape``."""
        count = 0
        for chunk in self.source.image_chunks(part):
            images = _to_channels_last(chunk, self.resize)
            if images.shape[1:] != shape[1:]:
                shape_text = f"[height, width, channels] {list(images.shape[1:])}"
                raise self._source_error(
                    f"the {part} images need {list(shape[1:])}, found {shape_text}"
                )
            count += len(images)
            yield images
        if count != shape[0]:
            raise self._source_error(f"the {part} part has {count} images for {shape[0]} labels")

    def _source_error(self, message: str) -> ConfigError:
        return root_error(f"{type(self.source).__name__} in {self.source.root}: {message}")


def channel_statistics(images: Images, rows: Labels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation per channel of uint8 [N, H, W, C], scaled to 0..1."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(rows), _CHUNK_ROWS):
        chunk = images[rows[start : start + _CHUNK_ROWS]]
        for channel in range(len(counts)):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    # A constant channel keeps its scale.
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _to_channels_last(chunk: Images, side: int | None) -> Images:
    """[n, C, H, W] -> [n, H, W, C], scaled to ``side`` pixels a side if that is set."""
    if side is not None:
        images = torch.from_numpy(np.ascontiguousarray(chunk))
        scaled = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        chunk = scaled.numpy()
    return chunk.transpose(0, 2, 3, 1)
