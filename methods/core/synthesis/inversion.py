"""Inversion: images from a teacher alone, for training without its data.

Yin, Molchanov, Alvarez, Li, Mallya, Hoiem, Jha and Kautz 2020, "Dreaming to distill: data-free
knowledge transfer via DeepInversion", section 3.2. Images start as noise and minimise

    L = CE(y, teacher(x)) + norms * R_bn + variation * R_tv + l2 * R_2
    R_bn = sum_l ||mean_l(x) - running mean_l||_2 + ||var_l(x) - running var_l||_2

over the teacher's batch norms l, with given labels y. R_tv is the mean absolute difference of
neighbouring pixels and R_2 the mean square, both after the teacher's normalisation.

R_tv and R_2 differ from the published forms. The authors' code has, with the differences d of all
pixels of a batch x to their neighbours on the right, below and on both diagonals,

    R_tv = sum_d ||d||_2,   R_2 = mean_n ||x_n||_2

These norms grow with the square root of the number of pixels, the first also with that of images.
So a weight fits one batch size and one image size only; with means it fits all. Diagonal
differences are left out: each is at most the sum of one along a row and one along a column. The
authors' random shifts and flips are left out because images here are small.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse.methods.core.runtime.checkpointing import Checkpointer, EpochMetrics
from stillhouse.methods.core.runtime.epoch_loop import EpochLoop
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.training.synthetic_inputs import batch_norms
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Integers, LogUniform
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Network, Shape


class Inversion(Config):
    """Number of images, and the loss that they minimise."""

    images: int = setting(2_000, "number of images, equal for all classes", ge=1)
    batch_size: int = setting(
        256, "images at a time, at most; their joint statistics are matched", ge=2
    )
    steps: int = setting(500, "of Adam for each batch", Integers(100, 2_000), ge=1)
    lr: float = setting(0.1, "of Adam, down to 0 along a cosine", LogUniform(0.01, 0.5), gt=0.0)
    norms: float = setting(
        1.0, "weight of the batch-norm statistics", LogUniform(0.1, 10.0), ge=0.0
    )
    variation: float = setting(0.01, "weight of the total variation", LogUniform(1e-3, 1.0), ge=0.0)
    l2: float = setting(1e-3, "weight of the mean square", LogUniform(1e-5, 0.1), ge=0.0)


class SynthesisedImages(NamedTuple):
    """Images with their labels, in place of a training split."""

    images: Tensor
    """[N, channels, height, width], uint8."""
    labels: Tensor
    """[N], int64."""


def invert(
    teacher: Network,
    shape: Shape,
    classes: int,
    settings: Inversion,
    *,
    seed: int,
    device: torch.device,
    checkpointer: Checkpointer | None = None,
) -> Generator[EpochMetrics, None, SynthesisedImages]:
    """Make images of ``shape`` for the teacher's classes; yield the metrics of every batch.

    Every batch depends on ``seed`` and its number only, so a run that resumes from ``checkpointer``
    ends with the same images. The teacher is put into eval mode; its weights do not change.

    Yields:
        ``epoch`` (the batch, from 1), the final ``loss`` and its parts ``cross_entropy``,
        ``norms``, ``variation`` and ``l2``; ``teacher_accuracy``: the fraction of the images,
        rounded to 8 bits, that the teacher classifies as their labels; ``seconds``.

    Raises:
        ConfigError: the teacher has no batch norm with running statistics.
    """
    require_running_statistics(teacher)
    labels = torch.arange(settings.images) % classes
    run = _InversionRun(teacher, shape, labels, settings, seed, device)
    yield from run.run(len(run.label_batches), checkpointer)
    return SynthesisedImages(run.images(), labels)


class _InversionRun(EpochLoop):
    """The inversion of one teacher; every batch of images is an epoch."""

    def __init__(
        self,
        teacher: Network,
        shape: Shape,
        labels: Tensor,
        settings: Inversion,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(device)
        self.label_batches = labels.tensor_split(math.ceil(len(labels) / settings.batch_size))
        teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()
        self._teacher = teacher.requires_grad_(False)
        self._shape, self._settings, self._seed = shape, settings, seed
        self._batches: list[Tensor] = []

    def run_epoch(self, epoch: int) -> EpochMetrics:
        labels = self.label_batches[epoch].to(self.device)
        with seeded_torch(self.device, self._seed, epoch):
            images, metrics = _invert_batch(self._teacher, self._shape, labels, self._settings)
        self._batches.append(images)
        return {"epoch": epoch + 1.0, **metrics}

    def images(self) -> Tensor:
        """All images so far, [N, C, H, W], uint8."""
        return torch.cat(self._batches)

    def tensors(self) -> dict[str, Tensor]:
        return {"images": self.images()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._batches = [tensors["images"]]


def require_running_statistics(teacher: Network) -> None:
    """Check that a teacher has batch norm with running statistics.

    Raises:
        ConfigError: the teacher has none.
    """
    if not _norms_with_statistics(teacher):
        message = (
            "has no batch norm, and images are matched to the statistics of those; name a teacher "
            "with batch norm, or train on noise (data: {augment: {noise: true}})"
        )
        raise ConfigError([Problem("teacher", message)])


def _invert_batch(
    teacher: Network, shape: Shape, labels: Tensor, settings: Inversion
) -> tuple[Tensor, EpochMetrics]:
    """Images [n, C, H, W] of one batch, uint8 on the CPU, and their metrics."""
    x = torch.randn((len(labels), *shape), device=labels.device)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    low, high = ((bound - teacher.mean) / teacher.std for bound in (0.0, 1.0))
    optimizer = torch.optim.Adam([x], lr=settings.lr, betas=(0.5, 0.9))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        loss, _parts = inversion_loss(teacher, x, labels, settings)
        torch.autograd.backward(loss)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            x.copy_(x.clamp(low, high))
    with torch.no_grad():
        loss, parts = inversion_loss(teacher, x, labels, settings)
        pixels = ((x * teacher.std + teacher.mean) * 255).round_().clamp_(0, 255).to(torch.uint8)
        correct = teacher(pixels / 255, ()).logits.argmax(dim=1) == labels
    metrics = {name: value.item() for name, value in {"loss": loss, **parts}.items()}
    metrics["teacher_accuracy"] = correct.double().mean().item()
    return pixels.contiguous().cpu(), metrics


def inversion_loss(
    teacher: Network, x: Tensor, labels: Tensor, settings: Inversion
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch of images, and its unweighted parts.

    Args:
        x: [n, C, H, W], after the teacher's normalisation.
        labels: [n], int64, the intended classes.
    """
    with _record_statistics_gaps(teacher) as gaps:
        logits = teacher(x * teacher.std + teacher.mean, ()).logits
    parts = {
        "cross_entropy": F.cross_entropy(logits, labels),
        "norms": torch.stack(gaps).sum(),
        "variation": total_variation(x),
        "l2": x.square().mean(),
    }
    regularisation = (
        settings.norms * parts["norms"]
        + settings.variation * parts["variation"]
        + settings.l2 * parts["l2"]
    )
    return parts["cross_entropy"] + regularisation, parts


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along rows, plus that along columns."""
    differences = [x.diff(dim=dim).abs().mean() for dim in (2, 3) if x.shape[dim] > 1]
    return torch.stack([x.new_zeros(()), *differences]).sum()


@contextmanager
def _record_statistics_gaps(teacher: nn.Module) -> Iterator[list[Tensor]]:
    """A list to which each batch norm adds the distance of its input from its running statistics.

    Taps give outputs of blocks only; inputs of batch norms need hooks.
    """
    gaps: list[Tensor] = []

    def record_gap(norm: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        gaps.append(statistics_gap(inputs[0], norm))

    handles = [
        norm.register_forward_pre_hook(record_gap) for norm in _norms_with_statistics(teacher)
    ]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


def statistics_gap(x: Tensor, norm: _BatchNorm) -> Tensor:
    """||mean - running mean||_2 + ||variance - running variance||_2 of a batch [n, C, ...]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    dims = [dim for dim in range(x.dim()) if dim != 1]
    variance, mean = torch.var_mean(x, dim=dims, correction=0)
    mean_gap: Tensor = torch.linalg.vector_norm(mean - norm.running_mean)
    variance_gap: Tensor = torch.linalg.vector_norm(variance - norm.running_var)
    return mean_gap + variance_gap


def _norms_with_statistics(teacher: nn.Module) -> list[_BatchNorm]:
    return [norm for norm in batch_norms(teacher) if norm.running_mean is not None]
