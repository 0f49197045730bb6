"""Batches of a data set's splits, on the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stillhouse.methods.core.data.augmentation.augment import UNCHANGED, ViewChoices, render
from stillhouse.methods.core.data.augmentation.mixing import mix_images, mix_labels
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.base.decoded_source import DecodedSource
from stillhouse.methods.core.data.base.image_store import ImageStore
from stillhouse.methods.core.data.base.rng import make_rng
from stillhouse.methods.core.data.base.source import Labels, Part
from stillhouse.methods.core.data.base.splits import Rows, Split, Splits
from stillhouse.methods.core.data.class_merging import merged_labels
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import DataFacts, decoded_source, facts, split_spec
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Shape

MIB_BYTES = 1024**2


class _View(NamedTuple):
    """The random choices of one augmented view for all training examples."""

    choices: ViewChoices
    randaugment_choices: Rows | None


class Dataset:
    """The training, validation and test splits of one data set, as batches.

    A set of at most ``resident_mb`` is copied to the device, images as uint8 and texts as token
    ids; batches are gathered there. A larger set is streamed from the disk. Both give the same
    batches, bit for bit. The host does not wait for the device within an epoch.
    """

    def __init__(self, config: DataConfig, facts: DataFacts, source: DecodedSource, splits: Splits):
        self.config = config
        self.facts = facts
        self._source = source
        self._splits = splits
        size = sum(
            source.example_store(part, split_spec(config)).nbytes for part in ("train", "test")
        )
        self._resident = size <= config.resident_mb * MIB_BYTES

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of every image, (dimensions, words, 1) of every text."""
        return self.facts.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.facts.classes

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean for normalisation of images in 0..1, per channel."""
        return self.facts.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation for normalisation, per channel."""
        return self.facts.std

    @property
    def fingerprint(self) -> str:
        """The fingerprint of all settings and files that decide the batches."""
        return fingerprint(self.config.identity())

    @property
    def num_views(self) -> int | None:
        """Number of different augmented views of the training split; None means unlimited."""
        return self.config.augment.views if self.config.augment.is_active else 1

    @property
    def has_repeating_views(self) -> bool:
        """Whether views repeat, so that a teacher's outputs can be cached."""
        return self.num_views is not None

    def view_of_epoch(self, epoch: int) -> int:
        """The number of the view that ``epoch`` (from 0) trains on."""
        return epoch if self.num_views is None else epoch % self.num_views

    def steps(self, batch_size: int, drop_last: bool = False) -> int:
        """Number of batches per epoch of :meth:`train_batches`."""
        return math.ceil(self._examples_per_epoch(batch_size, drop_last) / batch_size)

    def train_batches(
        self,
        *,
        batch_size: int,
        epoch: int,
        seed: int,
        device: torch.device | str,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        """One epoch of the training split, in a random order from ``seed`` and ``epoch``.

        ``drop_last`` drops a last, smaller batch. A last batch of one example is always dropped,
        because batch norm cannot train on it. A split smaller than ``batch_size`` is one batch.
        """
        order = make_rng(seed, epoch).permutation(self.facts.sizes["train"]).astype(np.int64)
        order = order[: self._examples_per_epoch(batch_size, drop_last)]
        yield from self._batches("train", order, batch_size, device, self.view_of_epoch(epoch))

    def view_batches(
        self, view: int, *, batch_size: int, device: torch.device | str
    ) -> Iterator[Batch]:
        """The whole training split in order, in one augmented view of :meth:`train_batches`."""
        order = np.arange(self.facts.sizes["train"])
        yield from self._batches("train", order, batch_size, device, view)

    def batches(
        self, split: Split, *, batch_size: int, device: torch.device | str
    ) -> Iterator[Batch]:
        """A whole split in order, not augmented; indices are positions in that split.

        Raises:
            ConfigError: the split is empty.
        """
        size = self.facts.sizes[split]
        if not size:
            raise _empty_split_error(split)
        yield from self._batches(split, np.arange(size), batch_size, device, None)

    def labels_before_merge(self, split: Split) -> Tensor | None:
        """[N] int64 in order: the classes before ``merge``, for metrics only; None without it."""
        if self.config.merge is None:
            return None
        return torch.from_numpy(self._source_labels(split))

    def task_classes(self) -> Tensor | None:
        """The classes [n] int64 of the setting ``classes``, ascending; None without it."""
        if self.config.classes is None:
            return None
        merged = merged_labels(self.config, np.array(self.config.classes))
        return torch.from_numpy(np.unique(merged))

    def _examples_per_epoch(self, batch_size: int, drop_last: bool) -> int:
        """Number of training examples in an epoch."""
        size = self.facts.sizes["train"]
        remainder = size % batch_size
        drop = size > batch_size and (remainder == 1 or drop_last)
        return size - remainder if drop else size

    def _batches(
        self, split: Split, order: Rows, size: int, device: torch.device | str, view: int | None
    ) -> Iterator[Batch]:
        """The examples at the positions ``order`` of a split, ``size`` at a time."""
        device = torch.device(device)
        if view is None:
            unchanged = _View(UNCHANGED, None)
            yield from self._augmented_batches(split, order, size, device, unchanged)
            return
        augment, (_, height, width) = self.config.augment, self.shape
        examples = self.facts.sizes["train"]
        choices = augment.draw_view(view, examples, height, width).to(device)
        view_choices = _View(choices, augment.draw_changes(view, examples))
        mix = augment.draw_mix(view, examples, height, width)
        if mix is None:
            yield from self._augmented_batches(split, order, size, device, view_choices)
            return
        others = self._augmented_batches(
            split, mix.partner.numpy()[order], size, device, view_choices
        )
        mix = mix.to(device)
        for own, other in zip(
            self._augmented_batches(split, order, size, device, view_choices), others, strict=True
        ):
            mix_of_batch = mix.select(own.indices)
            images = mix_images(own.images, other.images, mix_of_batch)
            labels = mix_labels(own.labels, other.labels, mix_of_batch, self.classes)
            yield Batch(images, labels, own.indices)

    def _augmented_batches(
        self, split: Split, order: Rows, size: int, device: torch.device, view_choices: _View
    ) -> Iterator[Batch]:
        """The same without mixing."""
        store, split_rows, labels = self._split_examples(split)
        rows = torch.from_numpy(split_rows[order])
        indices = torch.from_numpy(order).to(device)
        labels = labels.to(device).index_select(0, indices)
        mean, std = (
            torch.tensor(channel_values, device=device) for channel_values in (self.mean, self.std)
        )
        batch_reader = store.gather_batches if self._resident else store.stream_batches
        parts = zip(torch.split(labels, size), torch.split(indices, size), strict=True)
        batches = zip(batch_reader(rows, size, device), parts, strict=True)
        for start, (images, (batch_labels, batch_indices)) in zip(
            itertools.count(step=size), batches, strict=False
        ):
            choices, changes = view_choices
            if changes is not None:
                changes = changes[order[start : start + size]]
            choices = choices.select(batch_indices)
            rendered = render(images, choices, self.config.augment, mean, std, changes)
            yield Batch(rendered, batch_labels, batch_indices)

    def _split_examples(self, split: Split) -> tuple[ImageStore, Rows, Tensor]:
        """The store of a split's images, their rows in it, and their labels."""
        part: Part = "test" if split == "test" else "train"
        labels = merged_labels(self.config, self._source_labels(split))
        store = self._source.example_store(part, split_spec(self.config))
        return store, self._splits.rows(split), torch.from_numpy(labels)

    def _source_labels(self, split: Split) -> Labels:
        labels = self._source.labels("test" if split == "test" else "train")
        return labels[self._splits.rows(split)]


def open_data(config: DataConfig) -> Dataset:
    """The data set that ``config`` describes.

    The content of the last few sources stays open in this process. All settings of splits and
    augmentation share it, on the disk and on the device.

    Raises:
        ConfigError: files are missing or damaged, or settings do not fit the images.
    """
    source = decoded_source(config)
    return Dataset(config, facts(config), source, source.splits(split_spec(config)))


def _empty_split_error(split: Split) -> ConfigError:
    if split == "validation":
        return ConfigError([Problem("validation", "is 0, so there is no validation split")])
    return ConfigError([Problem("source", f"has no {split} split")])
