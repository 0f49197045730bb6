"""Neighbourhoods: replacements for runs of a teacher's blocks, each distilled alone.

Each learns to map the teacher's feature at its start to the teacher's feature at its end (Shao et
al. 2020, section 3). One pass of the teacher serves any number of them. Their gradients are
separate, so the result of each does not depend on the others. They are shallow and so also learn
from synthetic inputs (``stillhouse.methods.core.training.synthetic_inputs``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.runtime.checkpointing import (
    EpochMetrics,
    add_prefix,
    copy_to_cpu,
    strip_prefix,
)
from stillhouse.methods.core.runtime.precision import autocast, autocast_dtype
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.training.optimisation import GradientDescent
from stillhouse.methods.core.training.synthetic_inputs import (
    InputKind,
    batch_norms,
    blocks_with_batch_statistics,
    gaussian_images,
)
from stillhouse.spaces.modules.network import Network


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A replacement for blocks ``start`` .. ``stop`` - 1 of a teacher.

    ``project_input`` and ``project_target`` project the teacher's features to the input and output
    width of ``module``; ``expand_output`` inverts the latter. They are identities at full width.
    """

    start: int
    stop: int
    module: nn.Module
    project_input: nn.Module
    project_target: nn.Module
    expand_output: nn.Module


class NeighbourhoodTraining:
    """Training of several neighbourhoods of one teacher, which share the passes over the data.

    A neighbourhood whose loss is not finite stops training; its ``train_loss`` is NaN from then on.
    With all kinds of ``inputs`` an epoch has as many steps as there are batches of training images.
    :meth:`scores` uses real validation images.

    Raises:
        ConfigError: ``inputs`` is ``statistics``, and the teacher has no batch norm.
    """

    def __init__(
        self,
        teacher: Network,
        neighbourhoods: Sequence[Neighbourhood],
        data: Dataset,
        training: Training,
        *,
        inputs: InputKind,
        seed: int,
        device: torch.device,
    ) -> None:
        self._teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()
        self._neighbourhoods = list(neighbourhoods)
        self._data, self._training, self._inputs = data, training, inputs
        self._seed, self._device = seed, device
        self._dtype = autocast_dtype(training.precision, device, data.shape)
        for neighbourhood in self._neighbourhoods:
            for part in (
                neighbourhood.module,
                neighbourhood.project_input,
                neighbourhood.project_target,
                neighbourhood.expand_output,
            ):
                part.to(device).to(memory_format=torch.channels_last)
        self._descents = [_descent(n.module, training) for n in self._neighbourhoods]
        self._diverged = [False] * len(self._neighbourhoods)
        self._cuts = {
            cut
            for neighbourhood in self._neighbourhoods
            for cut in (neighbourhood.start, neighbourhood.stop)
        }
        if inputs == "statistics":
            self._statistics_blocks = blocks_with_batch_statistics(
                self._teacher, max(neighbourhood.start for neighbourhood in self._neighbourhoods)
            )
        self.epoch = 0

    def run_epoch(self) -> list[EpochMetrics]:
        """Train all of them for one epoch; the metrics of each, in order."""
        sums = torch.zeros(len(self._neighbourhoods), device=self._device)
        steps = self._data.steps(self._training.batch_size)
        batches = self._data.train_batches(
            batch_size=self._training.batch_size,
            epoch=self.epoch,
            seed=self._seed,
            device=self._device,
        )
        with seeded_torch(self._device, self._seed, self.epoch):
            for neighbourhood, descent in self._with_descents():
                # A module without trainable parameters keeps its batch-norm statistics.
                neighbourhood.module.train(descent is not None)
            for step, batch in enumerate(batches):
                sums += self._step(batch, self.epoch + step / steps)
        losses = (sums / steps).tolist()
        self._diverged = [
            diverged or not math.isfinite(loss)
            for diverged, loss in zip(self._diverged, losses, strict=True)
        ]
        self.epoch += 1
        reported = (
            math.nan if diverged else x for diverged, x in zip(self._diverged, losses, strict=True)
        )
        return [{"epoch": float(self.epoch), "train_loss": loss} for loss in reported]

    @torch.no_grad()
    def scores(self) -> list[EpochMetrics]:
        """Validation metrics of each, and of the teacher with only this one replaced.

        Returns:
            ``nmse``: mean squared error over the teacher feature's mean square; ``kl``: mean
            KL divergence in nats from the teacher's probabilities to those with the
            replacement (Bercovich et al. 2025, replace-one); ``val_accuracy`` with the replacement;
            ``accuracy_drop``: the teacher's accuracy less ``val_accuracy``.
        """
        sums = [
            dict.fromkeys(("error", "square", "kl", "right"), 0.0) for _ in self._neighbourhoods
        ]
        teacher_correct, num_examples = 0.0, 0
        for neighbourhood in self._neighbourhoods:
            neighbourhood.module.eval()
        for batch in self._data.batches("validation", batch_size=256, device=self._device):
            features, logits = self._teacher_features(batch.images)
            num_examples += len(batch.labels)
            teacher_correct += (logits.argmax(1) == batch.labels).sum().item()
            for totals, neighbourhood in zip(sums, self._neighbourhoods, strict=True):
                self._add_score(totals, neighbourhood, features, logits, batch)
        accuracy = teacher_correct / num_examples
        return [_to_metrics(totals, num_examples, accuracy) for totals in sums]

    def state(self) -> dict[str, Tensor]:
        """A checkpoint, for :meth:`load`."""
        tensors = {"epoch": torch.tensor(self.epoch), "lost": torch.tensor(self._diverged)}
        for i, (neighbourhood, descent) in enumerate(self._with_descents()):
            tensors |= add_prefix(f"{i}.module", neighbourhood.module.state_dict())
            tensors |= add_prefix(f"{i}.optimizer", descent.state() if descent else {})
        return copy_to_cpu(tensors)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a checkpoint of :meth:`state`."""
        self.epoch = int(tensors["epoch"])
        self._diverged = [bool(diverged) for diverged in tensors["lost"].tolist()]
        for i, (neighbourhood, descent) in enumerate(self._with_descents()):
            neighbourhood.module.load_state_dict(strip_prefix(f"{i}.module", tensors))
            if descent:
                descent.load(strip_prefix(f"{i}.optimizer", tensors))

    def _with_descents(self) -> Iterator[tuple[Neighbourhood, GradientDescent | None]]:
        """Every neighbourhood with its optimiser; None if it has nothing to train."""
        return zip(self._neighbourhoods, self._descents, strict=True)

    def _step(self, batch: Batch, position: float) -> Tensor:
        """One step of all; their losses, 0 for those that diverged."""
        with torch.no_grad():
            ends = self._interval_features(batch.images)
        losses = torch.zeros(len(self._neighbourhoods), device=self._device)
        for i, (neighbourhood, descent) in enumerate(self._with_descents()):
            if not self._diverged[i]:
                features = ends[neighbourhood.start, neighbourhood.stop]
                losses[i] = self._train_step(neighbourhood, *features, descent, position)
        return losses

    def _interval_features(self, images: Tensor) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """Interval -> the teacher's features at its start and its end."""
        intervals = {
            (neighbourhood.start, neighbourhood.stop) for neighbourhood in self._neighbourhoods
        }
        if self._inputs == "statistics":
            return self._synthetic_interval_features(images, intervals)
        if self._inputs == "noise":
            images = gaussian_images(images, self._teacher)
        features, _ = self._teacher_features(images, logits=False)
        return {(start, stop): (features[start], features[stop]) for start, stop in intervals}

    def _synthetic_interval_features(
        self, images: Tensor, intervals: Collection[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """The same, with synthetic features at each start; the teacher computes the ends."""
        noise = torch.randn(images.shape, device=images.device)
        start_features, _ = self._run_blocks(self._statistics_blocks, noise, 0)
        features = {}
        for start in {start for start, _ in intervals}:
            stops = [stop for interval_start, stop in intervals if interval_start == start]
            blocks = self._teacher.span(start, max(stops))
            stop_features, _ = self._run_blocks(blocks, start_features[start], start)
            features.update(
                {(start, stop): (start_features[start], stop_features[stop]) for stop in stops}
            )
        return features

    def _train_step(
        self,
        neighbourhood: Neighbourhood,
        inputs: Tensor,
        target: Tensor,
        descent: GradientDescent | None,
        position: float,
    ) -> Tensor:
        with torch.no_grad():
            inputs, target = (
                neighbourhood.project_input(inputs),
                neighbourhood.project_target(target).float(),
            )
            scale = target.square().mean().clamp(min=1e-12)
        with torch.set_grad_enabled(descent is not None), autocast(self._dtype, self._device):
            prediction = neighbourhood.module(inputs)
        loss: Tensor = (prediction.float() - target).square().mean() / scale
        if descent is None:
            return loss
        descent.minimise(loss, self._training.lr_at(position))
        return loss.detach()

    def _teacher_features(
        self, images: Tensor, logits: bool = True
    ) -> tuple[dict[int, Tensor], Tensor]:
        """The teacher's features at the needed cuts, and its logits."""
        last = len(self._teacher.names) if logits else max(self._cuts)
        x = (images - self._teacher.mean) / self._teacher.std
        return self._run_blocks(self._teacher.span(0, last), x, 0)

    def _run_blocks(
        self, blocks: Iterable[nn.Module], x: Tensor, first_cut: int
    ) -> tuple[dict[int, Tensor], Tensor]:
        """The features at the needed cuts after ``first_cut``, and the last feature."""
        features: dict[int, Tensor] = {}
        with autocast(self._dtype, self._device):
            for cut, block in enumerate(blocks, start=first_cut + 1):
                x = block(x)
                if cut in self._cuts:
                    features[cut] = x.float()
        return features, x.float()

    def _add_score(
        self,
        totals: dict[str, float],
        neighbourhood: Neighbourhood,
        features: Mapping[int, Tensor],
        logits: Tensor,
        batch: Batch,
    ) -> None:
        with autocast(self._dtype, self._device):
            prediction = neighbourhood.module(
                neighbourhood.project_input(features[neighbourhood.start])
            )
            x = neighbourhood.expand_output(prediction)
            for block in list(self._teacher.blocks.values())[neighbourhood.stop :]:
                x = block(x)
        target = neighbourhood.project_target(features[neighbourhood.stop]).float()
        totals["error"] += (prediction.float() - target).square().sum().item()
        totals["square"] += target.square().sum().item()
        p, q = logits.log_softmax(1), x.float().log_softmax(1)
        totals["kl"] += (p.exp() * (p - q)).sum().item()
        totals["right"] += (x.argmax(1) == batch.labels).sum().item()


def _descent(module: nn.Module, training: Training) -> GradientDescent | None:
    parameters = [p for p in module.parameters() if p.requires_grad]
    return GradientDescent.from_training(parameters, training) if parameters else None


def _to_metrics(totals: Mapping[str, float], num_examples: int, accuracy: float) -> EpochMetrics:
    return {
        "nmse": totals["error"] / max(totals["square"], 1e-30),
        "kl": totals["kl"] / num_examples,
        "val_accuracy": totals["right"] / num_examples,
        "accuracy_drop": accuracy - totals["right"] / num_examples,
    }


@torch.no_grad()
def recalibrate_batch_norm(
    network: Network, data: Dataset, device: torch.device, batches: int = 20
) -> None:
    """Recompute batch-norm statistics over some training batches, in place.

    Every running mean and variance becomes the plain average over the batches. An assembled
    network needs this: each part has its statistics from the teacher's features (Li et al. 2020,
    supplement). The network is left in eval mode.
    """
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    network.to(device).train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    stream = data.train_batches(batch_size=256, epoch=0, seed=0, device=device)
    for _, batch in zip(range(batches), stream, strict=False):
        network(batch.images, ())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
