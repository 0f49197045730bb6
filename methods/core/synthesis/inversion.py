"""Inversion: images made from nothing but a teacher, for training where its data is gone.

Yin, Molchanov, Alvarez, Li, Mallya, Hoiem, Jha and Kautz 2020, "Dreaming to distill: data-free
knowledge transfer via DeepInversion", section 3.2. Images start as noise and descend

    L = CE(y, teacher(x)) + norms * R_bn + variation * R_tv + l2 * R_2
    R_bn = sum_l ||mean_l(x) - running mean_l||_2 + ||var_l(x) - running var_l||_2

over the teacher's batch norms l, with labels y that are given. R_tv is the mean absolute
difference of neighbouring pixels and R_2 the mean square, both after the teacher's normalisation.

R_tv and R_2 differ from the published forms by design. With d the differences of all pixels of a
batch x to their neighbours on the right, below and on both diagonals, the authors' code has

    R_tv = sum_d ||d||_2,   R_2 = mean_n ||x_n||_2

Such norms grow with the square root of the number of pixels, the first also with that of images,
so that a weight fits one batch size and one image size. Means fit all. Diagonal differences are
left out: each is bounded by the sum of one along a row and one along a column. The authors' random
shifts and flips are left out as well: images here are small.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse.methods.core.runtime.checkpointing import Report, Saves, read, written
from stillhouse.methods.core.runtime.seeding import seeded
from stillhouse.methods.core.training.synthetic_inputs import norms
from stillhouse.spaces.config.base import Config, knob
from stillhouse.spaces.config.domains import Integers, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network, Shape


class Inversion(Config):
    """How many images are made, and what they descend."""

    images: int = knob(2_000, "how many, every class alike", ge=1)
    batch_size: int = knob(256, "at most so many at a time; their statistics are matched", ge=2)
    steps: int = knob(500, "of Adam for each batch", Integers(100, 2_000), ge=1)
    lr: float = knob(0.1, "of Adam, down to 0 along a cosine", LogUniform(0.01, 0.5), gt=0.0)
    norms: float = knob(1.0, "weight of the batch-norm statistics", LogUniform(0.1, 10.0), ge=0.0)
    variation: float = knob(0.01, "weight of the total variation", LogUniform(1e-3, 1.0), ge=0.0)
    l2: float = knob(1e-3, "weight of the mean square", LogUniform(1e-5, 0.1), ge=0.0)


class Made(NamedTuple):
    """Images with their labels, in place of a training split."""

    images: Tensor
    """[N, channels, height, width], uint8."""
    labels: Tensor
    """[N], int64."""


def invert(
    teacher: Network,
    shape: Shape,
    classes: int,
    how: Inversion,
    *,
    seed: int,
    device: torch.device,
    saves: Saves | None = None,
) -> Generator[Report, None, Made]:
    """Make images of ``shape`` that the teacher takes for its classes; a report a batch.

    Every batch depends on ``seed`` and its own number alone, so what resumes from ``saves`` ends
    with the same images. The teacher is put into eval mode and not changed.

    Yields:
        ``epoch`` (the batch, from 1), ``loss`` and its parts ``cross_entropy``, ``norms``,
        ``variation``, ``l2`` of the batch as it was left, ``teacher_accuracy``: the fraction of
        its images, rounded to 8 bits, that the teacher names by their labels, and ``seconds``.

    Raises:
        ConfigError: the teacher has no batch norm with running statistics.
    """
    require_statistics(teacher)
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
    teacher = teacher.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    labels = torch.arange(how.images) % classes
    parts = labels.tensor_split(math.ceil(how.images / how.batch_size))
    kept = saves.load() if saves is not None else None
    curve: list[Report] = read(kept["curve"]) if kept else []
    done = [kept["images"]] if kept else []
    yield from map(dict, curve)
    for number in range(len(curve), len(parts)):
        with seeded(device, seed, number):
            images, report = _batch(teacher, shape, parts[number].to(device), how)
        done.append(images)
        curve.append({"epoch": number + 1.0, **report})
        if saves is not None and saves.due():
            saves.store({"images": torch.cat(done), "curve": written(curve)})
        yield dict(curve[-1])
    return Made(torch.cat(done), labels)


def require_statistics(teacher: Network) -> None:
    """Refuse a teacher whose batch statistics nothing is known of.

    Raises:
        ConfigError: no batch norm, or none that keeps running statistics.
    """
    if not _kept(teacher):
        message = (
            "has no batch norm, and images are matched to the statistics of those; name a teacher "
            "with batch norm, or train on noise (data: {augment: {noise: true}})"
        )
        raise ConfigError([Problem("teacher", message)])


def _batch(teacher: Network, shape: Shape, labels: Tensor, how: Inversion) -> tuple[Tensor, Report]:
    """One batch from noise to images [n, C, H, W], uint8 on the CPU, and what was reached."""
    began = time.perf_counter()
    x = torch.randn((len(labels), *shape), device=labels.device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    low, high = ((bound - teacher.mean) / teacher.std for bound in (0.0, 1.0))
    descent = torch.optim.Adam([x], lr=how.lr, betas=(0.5, 0.9))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(descent, how.steps)
    for _ in range(how.steps):
        descent.zero_grad()
        loss, _parts = objective(teacher, x, labels, how)
        torch.autograd.backward(loss)
        descent.step()
        falling.step()
        with torch.no_grad():
            x.copy_(x.clamp(low, high))
    with torch.no_grad():
        loss, parts = objective(teacher, x, labels, how)
        pixels = ((x * teacher.std + teacher.mean) * 255).round_().clamp_(0, 255).to(torch.uint8)
        right = teacher(pixels / 255, ()).logits.argmax(dim=1) == labels
    report = {name: value.item() for name, value in {"loss": loss, **parts}.items()}
    report["teacher_accuracy"] = right.double().mean().item()
    report["seconds"] = time.perf_counter() - began
    return pixels.contiguous().cpu(), report


def objective(
    teacher: Network, x: Tensor, labels: Tensor, how: Inversion
) -> tuple[Tensor, dict[str, Tensor]]:
    """What images descend, and its unweighted parts.

    Args:
        x: [n, C, H, W], after the teacher's normalisation.
        labels: [n], int64, the classes that they are to be named.
    """
    with _watched(teacher) as gaps:
        logits = teacher(x * teacher.std + teacher.mean, ()).logits
    parts = {
        "cross_entropy": F.cross_entropy(logits, labels),
        "norms": torch.stack(gaps).sum(),
        "variation": variation(x),
        "l2": x.square().mean(),
    }
    weighted = (
        how.norms * parts["norms"] + how.variation * parts["variation"] + how.l2 * parts["l2"]
    )
    return parts["cross_entropy"] + weighted, parts


def variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along rows, plus that along columns."""
    steps = [x.diff(dim=dim).abs().mean() for dim in (2, 3) if x.shape[dim] > 1]
    return torch.stack([x.new_zeros(()), *steps]).sum()


@contextmanager
def _watched(teacher: nn.Module) -> Iterator[list[Tensor]]:
    """Each batch norm adds how far from its running statistics the batch is that it sees.

    What enters a batch norm is inside a block, so no tap can tell it.
    """
    gaps: list[Tensor] = []

    def look(norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        gaps.append(statistics_gap(inputs[0], norm))

    handles = [norm.register_forward_pre_hook(look) for norm in _kept(teacher)]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


def statistics_gap(x: Tensor, norm: _BatchNorm) -> Tensor:
    """||mean - running mean||_2 + ||variance - running variance||_2 of a batch [n, C, ...]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    along = [dim for dim in range(x.dim()) if dim != 1]
    variance, mean = torch.var_mean(x, dim=along, correction=0)
    centre: Tensor = torch.linalg.vector_norm(mean - norm.running_mean)
    spread: Tensor = torch.linalg.vector_norm(variance - norm.running_var)
    return centre + spread


def _kept(teacher: nn.Module) -> list[_BatchNorm]:
    return [norm for norm in norms(teacher) if norm.running_mean is not None]
