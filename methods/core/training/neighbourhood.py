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
from stillhouse.methods.core.runtime.precision import autocast, resolve_precision
from stillhouse.methods.core.runtime.seeding import seeded
from stillhouse.methods.core.training.learner import below, optimizer
from stillhouse.methods.core.training.synthetic_inputs import Inputs, gaussian, normed_by_batch
from stillhouse.spaces.modules.network import Network

Report = dict[str, float]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A replacement for blocks ``start`` .. ``stop`` - 1 of a teacher.

    ``enter`` and ``leave`` bring the teacher's features at both ends to the widths that
    ``module`` works between; identities at full width.
    """

    start: int
    stop: int
    module: nn.Module
    enter: nn.Module
    leave: nn.Module
    widen: nn.Module


class Distillation:
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
        inputs: Inputs,
        seed: int,
        device: torch.device,
    ) -> None:
        self._teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()
        self._all = list(neighbourhoods)
        self._data, self._training, self._inputs = data, training, inputs
        self._seed, self._device = seed, device
        self._dtype = resolve_precision(training.precision, device, data.shape)
        for each in self._all:
            for part in (each.module, each.enter, each.leave, each.widen):
                part.to(device).to(memory_format=torch.channels_last)
        self._parameters = [
            [p for p in n.module.parameters() if p.requires_grad] for n in self._all
        ]
        self._optimizers = [optimizer(p, training) if p else None for p in self._parameters]
        self._lost = [False] * len(self._all)
        self._cuts = {cut for each in self._all for cut in (each.start, each.stop)}
        if inputs == "statistics":
            self._drawing = normed_by_batch(self._teacher, max(each.start for each in self._all))
        self.epoch = 0

    def run_epoch(self) -> list[Report]:
        """Teach all of them for one epoch; a report each, in their order."""
        sums = torch.zeros(len(self._all), device=self._device)
        steps = self._data.steps(self._training.batch_size)
        with seeded(self._device, self._seed, self.epoch):
            for each, parameters in zip(self._all, self._parameters, strict=True):
                each.module.train(bool(parameters))  # what learns nothing keeps its statistics
            for step, batch in enumerate(self._batches()):
                sums += self._step(batch, self.epoch + step / steps)
        losses = (sums / steps).tolist()
        self._lost = [
            lost or not math.isfinite(loss) for lost, loss in zip(self._lost, losses, strict=True)
        ]
        self.epoch += 1
        told = (math.nan if lost else x for lost, x in zip(self._lost, losses, strict=True))
        return [{"epoch": float(self.epoch), "train_loss": loss} for loss in told]

    @torch.no_grad()
    def scores(self) -> list[Report]:
        """Held-out figures of each, and of the teacher with it alone swapped in.

        Returns:
            ``nmse``: mean squared error over the teacher feature's mean square; ``kl``: mean
            KL divergence in nats from the teacher's probabilities to those with the
            replacement (Bercovich et al. 2025, replace-one); ``val_accuracy`` with the replacement
            and ``accuracy_drop``, the teacher's less that.
        """
        sums = [dict.fromkeys(("error", "square", "kl", "right"), 0.0) for _ in self._all]
        teacher_right, seen = 0.0, 0
        for each in self._all:
            each.module.eval()
        for batch in self._data.batches("validation", batch_size=256, device=self._device):
            features, logits = self._features(batch.images)
            seen += len(batch.labels)
            teacher_right += (logits.argmax(1) == batch.labels).sum().item()
            for told, each in zip(sums, self._all, strict=True):
                self._score(told, each, features, logits, batch)
        accuracy = teacher_right / seen
        return [_scores(told, seen, accuracy) for told in sums]

    def state(self) -> dict[str, Tensor]:
        """All that :meth:`load` needs to go on from here."""
        tensors = {"epoch": torch.tensor(self.epoch), "lost": torch.tensor(self._lost)}
        for i, each in enumerate(self._all):
            tensors |= {f"{i}.module.{k}": v for k, v in each.module.state_dict().items()}
            held = self._optimizers[i]
            for j, parameter in enumerate(self._parameters[i] if held else ()):
                assert held is not None
                found = held.state[parameter].items()
                tensors |= {f"{i}.optimizer.{j}.{k}": v for k, v in found}
        return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Stand where :meth:`state` was asked for."""
        self.epoch = int(tensors["epoch"])
        self._lost = [bool(lost) for lost in tensors["lost"].tolist()]
        for i, each in enumerate(self._all):
            each.module.load_state_dict(below(f"{i}.module", tensors))
            for j, parameter in enumerate(self._parameters[i]):
                for name, value in below(f"{i}.optimizer.{j}", tensors).items():
                    like = torch.empty_like(parameter) if value.shape == parameter.shape else value
                    place = torch.empty_like(like, dtype=value.dtype, device=self._device)
                    held = self._optimizers[i]
                    assert held is not None
                    held.state[parameter][name] = place.copy_(value)

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
            ends = self._ends(batch.images)
        losses = torch.zeros(len(self._all), device=self._device)
        for i, each in enumerate(self._all):
            held = self._optimizers[i]
            if not self._lost[i]:
                losses[i] = self._teach(each, *ends[each.start, each.stop], held, position)
        return losses

    def _ends(self, images: Tensor) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """Interval -> the teacher's features at its beginning and at its end."""
        intervals = {(each.start, each.stop) for each in self._all}
        if self._inputs == "statistics":
            return self._drawn(images, intervals)
        if self._inputs == "noise":
            images = gaussian(images, self._teacher)
        features, _ = self._features(images, logits=False)
        return {(start, stop): (features[start], features[stop]) for start, stop in intervals}

    def _drawn(
        self, images: Tensor, intervals: Collection[tuple[int, int]]
    ) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """The same, drawn at each beginning; from there on it is the teacher's own function."""
        noise = torch.randn(images.shape, device=images.device)
        given, _ = self._along(self._drawing, noise, 0)
        found = {}
        for start in {start for start, _ in intervals}:
            stops = [stop for first, stop in intervals if first == start]
            blocks = self._teacher.span(start, max(stops))
            wanted, _ = self._along(blocks, given[start], start)
            found.update({(start, stop): (given[start], wanted[stop]) for stop in stops})
        return found

    def _teach(
        self,
        each: Neighbourhood,
        given: Tensor,
        wanted: Tensor,
        held: torch.optim.Optimizer | None,
        position: float,
    ) -> Tensor:
        with torch.no_grad():
            given, wanted = each.enter(given), each.leave(wanted).float()
            size = wanted.square().mean().clamp(min=1e-12)
        with torch.set_grad_enabled(held is not None), autocast(self._dtype, self._device):
            answer = each.module(given)
        loss: Tensor = (answer.float() - wanted).square().mean() / size
        if held is None:
            return loss
        held.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if self._training.clip is not None:
            nn.utils.clip_grad_norm_(each.module.parameters(), self._training.clip)
        for group in held.param_groups:
            group["lr"] = self._training.rate_at(position)
        held.step()
        return loss.detach()

    def _features(self, images: Tensor, logits: bool = True) -> tuple[dict[int, Tensor], Tensor]:
        """The teacher's feature at every cut that is needed, and its logits."""
        last = len(self._teacher.names) if logits else max(self._cuts)
        x = (images - self._teacher.mean) / self._teacher.std
        return self._along(self._teacher.span(0, last), x, 0)

    def _along(
        self, blocks: Iterable[nn.Module], x: Tensor, first: int
    ) -> tuple[dict[int, Tensor], Tensor]:
        """From cut ``first`` on: the feature at every cut that is needed, and the last of all."""
        found: dict[int, Tensor] = {}
        with autocast(self._dtype, self._device):
            for cut, block in enumerate(blocks, start=first + 1):
                x = block(x)
                if cut in self._cuts:
                    found[cut] = x.float()
        return found, x.float()

    def _score(
        self,
        told: dict[str, float],
        each: Neighbourhood,
        features: Mapping[int, Tensor],
        logits: Tensor,
        batch: Batch,
    ) -> None:
        with autocast(self._dtype, self._device):
            answer = each.module(each.enter(features[each.start]))
            x = each.widen(answer)
            for block in list(self._teacher.blocks.values())[each.stop :]:
                x = block(x)
        wanted = each.leave(features[each.stop]).float()
        told["error"] += (answer.float() - wanted).square().sum().item()
        told["square"] += wanted.square().sum().item()
        p, q = logits.log_softmax(1), x.float().log_softmax(1)
        told["kl"] += (p.exp() * (p - q)).sum().item()
        told["right"] += (x.argmax(1) == batch.labels).sum().item()


def _scores(told: Mapping[str, float], seen: int, accuracy: float) -> Report:
    return {
        "nmse": told["error"] / max(told["square"], 1e-30),
        "kl": told["kl"] / seen,
        "val_accuracy": told["right"] / seen,
        "accuracy_drop": accuracy - told["right"] / seen,
    }


@torch.no_grad()
def recalibrate(network: Network, data: Dataset, device: torch.device, batches: int = 20) -> None:
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
