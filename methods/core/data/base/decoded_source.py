"""Material: a source's images and labels, read once a process whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from stillhouse.methods.core.data.base.array_cache import kept
from stillhouse.methods.core.data.base.image_store import Pixels
from stillhouse.methods.core.data.base.source import (
    Images,
    Labels,
    Part,
    Source,
    SourceFacts,
    root_problem,
)
from stillhouse.methods.core.data.base.splits import Cut, Splits, carve
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Shape

_ROWS = 4096


class Material:
    """What one source holds, scaled to ``resize`` pixels a side if that is set.

    ``digest`` is the content's fingerprint. Images of sources that are files are kept decoded on
    the disk (see ``store``).
    """

    def __init__(self, source: Source, digest: str, resize: int | None) -> None:
        self.source = source
        self.digest = digest
        self.resize = resize
        self._labels: dict[Part, Labels] = {}
        self._pixels: dict[Part, Pixels] = {}
        self._splits: dict[Cut, Splits] = {}
        self._moments: dict[Cut, tuple[tuple[float, ...], tuple[float, ...]]] = {}

    @cached_property
    def facts(self) -> SourceFacts:
        """What the source says of itself."""
        return self.source.facts()

    @property
    def shape(self) -> Shape:
        """(channels, height, width), after scaling."""
        channels, height, width = self.facts.shape
        return (channels, self.resize or height, self.resize or width)

    def labels(self, part: Part) -> Labels:
        """[N] int64.

        Raises:
            ConfigError: a label without a class, no training examples, or all of one class.
        """
        if part not in self._labels:
            labels = self.source.labels(part)
            classes = len(self.facts.class_names)
            if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
                found = f"{labels.min()} to {labels.max()}"
                message = f"the {part} labels are {found} where there are {classes} classes"
                raise self._problem(message)
            if part == "train":
                self._check_classes(labels)
            self._labels[part] = labels
        return self._labels[part]

    def _check_classes(self, labels: Labels) -> None:
        if not len(labels):
            raise self._problem("the training part holds no examples")
        if (labels == labels[0]).all():
            name = self.facts.class_names[labels[0]]
            message = f"all {len(labels)} training examples are of one class, {name!r}"
            raise self._problem(f"{message}; a classifier needs examples of two or more")

    def pixels(self, part: Part) -> Pixels:
        """The images, decoded at the first call on this machine."""
        if part not in self._pixels:
            channels, height, width = self.shape
            shape = (len(self.labels(part)), height, width, channels)
            self._pixels[part] = Pixels(self._images(part, shape))
        return self._pixels[part]

    def examples(self, part: Part, cut: Cut) -> Pixels:
        """How the examples of a part come to the device; of images, whatever the ``cut``."""
        return self.pixels(part)

    def space(self, cut: Cut) -> str | None:
        """Names the space of what networks see, where ``cut`` and settings decide it.

        Networks that see one example must live in one space. Images all live in the same: none.
        """
        return None

    def splits(self, cut: Cut) -> Splits:
        """The splits as ``cut`` says."""
        if cut not in self._splits:
            self._splits[cut] = carve(self.labels("train"), self.labels("test"), cut)
        return self._splits[cut]

    def moments(self, cut: Cut) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation a channel over the training split, images in 0..1."""
        if cut not in self._moments:
            images = self.pixels("train").images.numpy()
            self._moments[cut] = moments(images, self.splits(cut).train)
        return self._moments[cut]

    def _images(self, part: Part, shape: tuple[int, int, int, int]) -> Images:
        if not shape[0]:
            return np.empty(shape, np.uint8)
        if not self.source.files():
            return np.concatenate(list(self._chunks(part, shape)))
        what = [type(self.source).__name__, self.source.settings(), self.source.revision()]
        key = fingerprint([*what, self.digest, self.resize, part])
        return kept(key, shape, lambda: self._chunks(part, shape))

    def _chunks(self, part: Part, shape: tuple[int, ...]) -> Iterator[Images]:
        """[n, H, W, C] at a time, scaled; all of them together make up ``shape``."""
        count = 0
        for chunk in self.source.chunks(part):
            images = _arranged(chunk, self.resize)
            if images.shape[1:] != shape[1:]:
                found = f"[height, width, channels] {list(images.shape[1:])}"
                raise self._problem(f"the {part} images need {list(shape[1:])}, found {found}")
            count += len(images)
            yield images
        if count != shape[0]:
            raise self._problem(f"the {part} part has {count} images for {shape[0]} labels")

    def _problem(self, message: str) -> ConfigError:
        return root_problem(f"{type(self.source).__name__} in {self.source.root}: {message}")


def moments(images: Images, rows: Labels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation a channel, of uint8 [N, H, W, C] taken as 0..1."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(rows), _ROWS):
        some = images[rows[start : start + _ROWS]]
        for channel in range(len(counts)):
            counts[channel] += np.bincount(some[..., channel].ravel(), minlength=256)
    share = counts / counts.sum(axis=1, keepdims=True)
    grey = np.arange(256) / 255
    mean = share @ grey
    std = np.sqrt((share * (grey - mean[:, None]) ** 2).sum(axis=1))
    # A channel that never changes is left as it is.
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _arranged(chunk: Images, side: int | None) -> Images:
    """[n, C, H, W] -> [n, H, W, C], scaled to ``side`` pixels a side if that is set."""
    if side is not None:
        images = torch.from_numpy(np.ascontiguousarray(chunk))
        scaled = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        chunk = scaled.numpy()
    return chunk.transpose(0, 2, 3, 1)
