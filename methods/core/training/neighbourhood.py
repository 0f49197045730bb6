"""Neighbourhoods: replacements for runs of a teacher's blocks, each distilled alone.

Each learns to answer the teacher's own feature at its beginning with the teacher's own feature at
its end (Shao et al. 2020, section 3). One pass of the teacher feeds any number of them; none sees
another one's gradient, so that together they come to what each would come to alone. Being shallow
they also learn without images (:mod:`stillhouse.methods.core.training.synthetic_inputs`).
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
from stillhouse.methods.core.runtime.precision import autocast, autocast_dtype
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.training.learner import build_optimizer, strip_prefix
from stillhouse.methods.core.training.synthetic_inputs import (
    InputKind,
    blocks_with_batch_statistics,
    gaussian_images,
)
from stillhouse.spaces.modules.network import Network

EpochMetrics = dict[str, float]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A replacement for blocks ``start`` .. ``stop`` - 1 of a teacher.

    ``project_input`` and ``project_target`` bring the teacher's features at both ends to the widths
    that ``module`` works between; identities at full width.
    """

    start: int
    stop: int
    module: nn.Module
    project_input: nn.Module
    project_target: nn.Module
    expand_output: nn.Module


class NeighbourhoodTraining:
    """Neighbourhoods of one teacher that learn from one pass over the data, epoch after epoch.

    One whose loss is no finite number any more is left as it is, and its reports say so with a
    ``train_loss`` that is not a number. Whatever the ``inputs``, an epoch has as many steps as
    over the training images, and :meth:`scores` looks at real images that were held out.

    Raises:
        ConfigError: ``statistics`` of a teacher without batch norm.
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
        self._parameters = [
            [p for p in n.module.parameters() if p.requires_grad] for n in self._neighbourhoods
        ]
        self._optimizers = [build_optimizer(p, training) if p else None for p in self._parameters]
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
        """Teach all of them for one epoch; a report each, in their order."""
        sums = torch.zeros(len(self._neighbourhoods), device=self._device)
        steps = self._data.steps(self._training.batch_size)
        with seeded_torch(self._device, self._seed, self.epoch):
            for neighbourhood, parameters in zip(
                self._neighbourhoods, self._parameters, strict=True
            ):
                neighbourhood.module.train(
                    bool(parameters)
                )  # what learns nothing keeps its statistics
            for step, batch in enumerate(self._batches()):
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
        """Held-out figures of each, and of the teacher with it alone swapped in.

        Returns:
            ``nmse``: mean squared error over the teacher feature's mean square; ``kl``: mean
            KL divergence in nats from the teacher's probabilities to those with the
            replacement (Bercovich et al. 2025, replace-one); ``val_accuracy`` with the replacement
            and ``accuracy_drop``, the teacher's less that.
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
        """All that :meth:`load` needs to go on from here."""
        tensors = {"epoch": torch.tensor(self.epoch), "lost": torch.tensor(self._diverged)}
        for i, neighbourhood in enumerate(self._neighbourhoods):
            tensors |= {f"{i}.module.{k}": v for k, v in neighbourhood.module.state_dict().items()}
            optimizer = self._optimizers[i]
            for j, parameter in enumerate(self._parameters[i] if optimizer else ()):
                assert optimizer is not None
                entries = optimizer.state[parameter].items()
                tensors |= {f"{i}.optimizer.{j}.{k}": v for k, v in entries}
        return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Stand where :meth:`state` was asked for."""
        self.epoch = int(tensors["epoch"])
        self._diverged = [bool(diverged) for diverged in tensors["lost"].tolist()]
        for i, neighbourhood in enumerate(self._neighbourhoods):
            neighbourhood.module.load_state_dict(strip_prefix(f"{i}.module", tensors))
            for j, parameter in enumerate(self._parameters[i]):
                for name, value in strip_prefix(f"{i}.optimizer.{j}", tensors).items():
                    reference = (
                        torch.empty_like(parameter) if value.shape == parameter.shape else value
                    )
                    buffer = torch.empty_like(reference, dtype=value.dtype, device=self._device)
                    optimizer = self._optimizers[i]
                    assert optimizer is not None
                    optimizer.state[parameter][name] = buffer.copy_(value)

    def _batches(self) -> Iterator[Batch]:
        batches = self._data.train_batches(
            batch_size=self._training.batch_size,
            epoch=self.epoch,
            seed=self._seed,
            device=self._device,
        )
        return batches

    def _step(self, batch: Batch, position: float) -> Tensor:
        """One batch for all; their losses, 0 for those that are lost."""
        with torch.no_grad():
            ends = self._interval_features(batch.images)
        losses = torch.zeros(len(self._neighbourhoods), device=self._device)
        for i, neighbourhood in enumerate(self._neighbourhoods):
            optimizer = self._optimizers[i]
            if not self._diverged[i]:
                losses[i] = self._train_step(
                    neighbourhood,
                    *ends[neighbourhood.start, neighbourhood.stop],
                    optimizer,
                    position,
                )
        return losses

    def _interval_features(self, images: Tensor) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """Interval -> the teacher's features at its beginning and at its end."""
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
        """The same, drawn at each beginning; from there on it is the teacher's own function."""
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
        optimizer: torch.optim.Optimizer | None,
        position: float,
    ) -> Tensor:
        with torch.no_grad():
            inputs, target = (
                neighbourhood.project_input(inputs),
                neighbourhood.project_target(target).float(),
            )
            scale = target.square().mean().clamp(min=1e-12)
        with torch.set_grad_enabled(optimizer is not None), autocast(self._dtype, self._device):
            prediction = neighbourhood.module(inputs)
        loss: Tensor = (prediction.float() - target).square().mean() / scale
        if optimizer is None:
            return loss
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self._training.clip is not None:
            nn.utils.clip_grad_norm_(neighbourhood.module.parameters(), self._training.clip)
        for group in optimizer.param_groups:
            group["lr"] = self._training.lr_at(position)
        optimizer.step()
        return loss.detach()

    def _teacher_features(
        self, images: Tensor, logits: bool = True
    ) -> tuple[dict[int, Tensor], Tensor]:
        """The teacher's feature at every cut that is needed, and its logits."""
        last = len(self._teacher.names) if logits else max(self._cuts)
        x = (images - self._teacher.mean) / self._teacher.std
        return self._run_blocks(self._teacher.span(0, last), x, 0)

    def _run_blocks(
        self, blocks: Iterable[nn.Module], x: Tensor, first_cut: int
    ) -> tuple[dict[int, Tensor], Tensor]:
        """From cut ``first_cut`` on: the feature at every cut that is needed, and the last of
        all."""
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
    """Take batch-norm statistics anew over some training batches, in place.

    Every running mean and variance becomes the plain average over the batches. An assembled
    network needs it: each part learnt its statistics on the teacher's features (Li et al. 2020,
    supplement). Left in eval mode.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
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
