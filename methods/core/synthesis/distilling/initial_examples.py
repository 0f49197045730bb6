"""What synthetic examples begin as: noise, or the best that a training split gives untaught."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.data.facts import lexicon, space
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import Examples
from stillhouse.spaces.config.problems import ConfigError, Problem

MOST = 2_000
"""Images of a class, the first in order, among which real ones and centres are found."""
SMOOTHED = 0.1


def begin(data: Dataset, how: Distilling, generator: torch.Generator) -> Examples:
    """The examples at first, on the CPU.

    Raises:
        ConfigError: a class is asked for that has too few training examples.
    """
    classes = how.initial_classes(data.classes)
    shape = (how.steps, how.examples, *data.shape)
    if how.begun_as == "noise":
        images = _noise(data, shape, generator)
    else:
        images = _chosen(data, how.begun_as, classes * how.steps, generator).view(shape)
    labels = _labels(how, torch.tensor(classes), data.classes, generator)
    raw = how.rate + math.log(-math.expm1(-how.rate))  # the inverse of softplus
    return Examples(images, labels, torch.full((how.steps * how.passes,), raw))


def _noise(data: Dataset, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """As normalised images are spread; for texts, as the vectors of their words are."""
    if space(data.config) is None:
        return torch.randn(shape, generator=generator)
    return lexicon(data.config).noise(shape, generator)


def _labels(how: Distilling, classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[S, M, classes]."""
    shape = (how.steps, how.examples, count)
    hot = torch.eye(count)[classes].expand(shape)
    if how.labels == "hard":
        return hot.clone()
    match how.label_start:
        case "uniform":
            found = torch.rand(shape, generator=generator)
        case "normal":
            found = torch.randn(shape, generator=generator)
        case "zeros":
            found = torch.zeros(shape)
        case "smoothed":
            found = (1 - SMOOTHED) * hot + SMOOTHED / count
        case _:
            found = hot.clone()
    return how.label_scale * found


def _chosen(
    data: Dataset, which: str, classes: Sequence[int], generator: torch.Generator
) -> Tensor:
    """[S * M, *shape], normalised: for every class as many as there are labels of it."""
    firsts, means = _read(data)
    found: dict[int, list[Tensor]] = {}
    for label in sorted(set(classes)):
        count = classes.count(label)
        if len(firsts[label]) < count:
            message = f"asks for {count} of class {label}, which has {len(firsts[label])}"
            raise ConfigError([Problem("examples", message)])
        found[label] = list(_of_class(which, firsts[label], means[label], count, generator))
    return torch.stack([found[label].pop(0) for label in classes])


def _read(data: Dataset) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Of every class its first images, and the mean of all."""
    parts: defaultdict[int, list[Tensor]] = defaultdict(list)
    sums: dict[int, Tensor] = {}
    counts: defaultdict[int, int] = defaultdict(int)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (data.mean, data.std))
    for batch in data.batches("train", batch_size=512, device="cpu"):
        for label in torch.unique(batch.labels).tolist():
            images = (batch.images[batch.labels == label] - mean) / std
            sums[label] = images.double().sum(dim=0) + sums.get(label, 0.0)
            parts[label].append(images[: max(0, MOST - counts[label])])
            counts[label] += len(images)
    firsts = {label: torch.cat(some) for label, some in parts.items()}
    nobody = torch.empty(0, *data.shape)
    means = {label: (sums[label] / counts[label]).float() for label in sums}
    return defaultdict(lambda: nobody, firsts), means


def _of_class(
    which: str, firsts: Tensor, mean: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """[count, *shape] of one class."""
    if which == "real":
        return firsts[torch.randperm(len(firsts), generator=generator)[:count]]
    if which == "means":
        return mean.expand(count, *mean.shape)
    return _centres(firsts, count, generator)


def _centres(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    from sklearn.cluster import KMeans  # a second, which a check need not wait for

    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    flat = images.flatten(1).double().numpy()
    centres = KMeans(count, n_init=4, random_state=seed).fit(flat).cluster_centers_
    return torch.from_numpy(centres.astype(np.float32)).view(count, *images.shape[1:])
