"""A data set whose training split is replaced by images that a stage made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from stillhouse.methods.core.data.base.image_store import ImageStore
from stillhouse.methods.core.data.base.splits import Rows, Split
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError


class ReplacedTrainSplit(Dataset):
    """A data set with other training images; validation and test split stay.

    Shapes, classes, normalisation and augmentation are those of the data set.

    Args:
        data: the data set.
        images: [N, C, H, W], uint8, or float with 0..1 from black to white.
        labels: [N], int64; or soft labels [N, classes], float, which only some methods accept.
        name: of the images; part of the cache key of the teachers' outputs.

    Raises:
        ConfigError: images or labels do not fit the data set.
    """

    def __init__(self, data: Dataset, images: Tensor, labels: Tensor, name: str) -> None:
        _check_replacement(data, images, labels)
        facts = replace(data.facts, sizes={**data.facts.sizes, "train": len(images)})
        super().__init__(data.config, facts, data._source, data._splits)
        self._name = name
        self._images = ImageStore(images.permute(0, 2, 3, 1).contiguous().numpy())
        self._labels = labels.clone()

    @property
    def fingerprint(self) -> str:
        return fingerprint([super().fingerprint, self._name])

    def _split_examples(self, split: Split) -> tuple[ImageStore, Rows, Tensor]:
        if split != "train":
            return super()._split_examples(split)
        return self._images, np.arange(len(self._labels)), self._labels


def _check_replacement(data: Dataset, images: Tensor, labels: Tensor) -> None:
    if tuple(images.shape[1:]) != data.shape or len(images) != len(labels):
        found_text = f"found {list(images.shape)} with {len(labels)} labels"
        raise ConfigError(f"images need {['N', *data.shape]} and a label each, {found_text}")
    if labels.dim() == 2:
        if labels.shape[1] != data.classes or not labels.is_floating_point():
            found_text = f"found {list(labels.shape)} of {labels.dtype}"
            raise ConfigError(f"soft labels need [N, {data.classes}] of float, {found_text}")
        return
    if not (len(labels) and 0 <= int(labels.min()) <= int(labels.max()) < data.classes):
        raise ConfigError(f"images need labels from 0 to {data.classes - 1}")
