"""Initial synthetic examples: noise, or images from the training split."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.data.facts import embedding_space, embedding_table
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import Examples
from stillhouse.spaces.config.problems import ConfigError, Problem

MAX_CANDIDATES = 2_000
"""The first images of a class, from which real images and centres are selected."""
LABEL_SMOOTHING = 0.1


def initial_examples(data: Dataset, settings: Distilling, generator: torch.Generator) -> Examples:
    """The initial examples, on the CPU.

    Raises:
        ConfigError: a class has too few training examples.
    """
    classes = settings.initial_classes(data.classes)
    shape = (settings.steps, settings.examples, *data.shape)
    if settings.initial_images == "noise":
        images = _noise_images(data, shape, generator)
    else:
        images = _selected_images(
            data, settings.initial_images, classes * settings.steps, generator
        ).view(shape)
    labels = _initial_labels(settings, torch.tensor(classes), data.classes, generator)
    raw_rate = settings.rate + math.log(-math.expm1(-settings.rate))  # the inverse of softplus
    return Examples(images, labels, torch.full((settings.steps * settings.passes,), raw_rate))


def _noise_images(data: Dataset, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal noise; for texts, noise with mean and deviation of the word vectors."""
    if embedding_space(data.config) is None:
        return torch.randn(shape, generator=generator)
    return embedding_table(data.config).noise(shape, generator)


def _initial_labels(
    settings: Distilling, classes: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """[S, M, classes]."""
    shape = (settings.steps, settings.examples, count)
    one_hot = torch.eye(count)[classes].expand(shape)
    if settings.labels == "hard":
        return one_hot.clone()
    match settings.label_start:
        case "uniform":
            labels = torch.rand(shape, generator=generator)
        case "normal":
            labels = torch.randn(shape, generator=generator)
        case "zeros":
            labels = torch.zeros(shape)
        case "smoothed":
            labels = (1 - LABEL_SMOOTHING) * one_hot + LABEL_SMOOTHING / count
        case _:
            labels = one_hot.clone()
    return settings.label_scale * labels


def _selected_images(
    data: Dataset, selection: str, classes: Sequence[int], generator: torch.Generator
) -> Tensor:
    """[S * M, *shape], normalised: one image of its class for every label."""
    firsts, means = _read_classes(data)
    images_by_class: dict[int, list[Tensor]] = {}
    for label in sorted(set(classes)):
        count = classes.count(label)
        if len(firsts[label]) < count:
            message = f"asks for {count} of class {label}, which has {len(firsts[label])}"
            raise ConfigError([Problem("examples", message)])
        images_by_class[label] = list(
            _images_of_class(selection, firsts[label], means[label], count, generator)
        )
    return torch.stack([images_by_class[label].pop(0) for label in classes])


def _read_classes(data: Dataset) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """The first images of every class, and the mean of all its images."""
    parts: defaultdict[int, list[Tensor]] = defaultdict(list)
    sums: dict[int, Tensor] = {}
    counts: defaultdict[int, int] = defaultdict(int)
    mean, std = (
        torch.tensor(channel_values).view(-1, 1, 1) for channel_values in (data.mean, data.std)
    )
    for batch in data.batches("train", batch_size=512, device="cpu"):
        for label in torch.unique(batch.labels).tolist():
            images = (batch.images[batch.labels == label] - mean) / std
            sums[label] = images.double().sum(dim=0) + sums.get(label, 0.0)
            parts[label].append(images[: max(0, MAX_CANDIDATES - counts[label])])
            counts[label] += len(images)
    firsts = {label: torch.cat(image_parts) for label, image_parts in parts.items()}
    empty = torch.empty(0, *data.shape)
    means = {label: (sums[label] / counts[label]).float() for label in sums}
    return defaultdict(lambda: empty, firsts), means


def _images_of_class(
    selection: str, firsts: Tensor, mean: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """[count, *shape] of one class."""
    if selection == "real":
        return firsts[torch.randperm(len(firsts), generator=generator)[:count]]
    if selection == "means":
        return mean.expand(count, *mean.shape)
    return _cluster_centres(firsts, count, generator)


def _cluster_centres(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    from sklearn.cluster import KMeans  # the import takes a second

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    flat = images.flatten(1).double().numpy()
    centres = KMeans(count, n_init=4, random_state=seed).fit(flat).cluster_centers_
    return torch.from_numpy(centres.astype(np.float32)).view(count, *images.shape[1:])
