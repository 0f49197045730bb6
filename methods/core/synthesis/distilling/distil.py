"""Distil: learn synthetic examples, their soft labels and step sizes; a report every so often."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.runtime.checkpointing import (
    Report,
    Saves,
    epoch_by_epoch,
    read,
    written,
)
from stillhouse.methods.core.runtime.seeding import seed_from, seeded
from stillhouse.methods.core.synthesis.distilling.distilled_set import Distilled, take_steps
from stillhouse.methods.core.synthesis.distilling.initial_examples import begin
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import (
    Examples,
    Unroll,
    stacked,
    weights_of,
)
from stillhouse.methods.core.training.evaluation import validated
from stillhouse.methods.core.training.learner import below, moments, put_moments
from stillhouse.methods.core.training.train import Diverged
from stillhouse.spaces.modules.network import Network

Fresh = Callable[[], Network]
"""A new network from torch's global generator."""

GLANCED_AT = 3
"""Fresh networks by which a report judges; ``judged_on`` of them judge what was learnt."""


def distil(
    fresh: Fresh,
    data: Dataset,
    how: Distilling,
    *,
    seed: int,
    device: torch.device,
    saves: Saves | None = None,
) -> Generator[Report, None, tuple[Distilled, Report]]:
    """Learn examples that train networks like ``fresh``'s in ``how.steps * how.passes`` steps.

    Every random choice depends on ``seed`` and the iteration, so what resumes from ``saves`` ends
    with the same examples. Only training and validation split are looked at.

    Yields:
        ``epoch`` (the report, from 1), ``lr``, ``train_loss``: cross entropy on real batches after
        the steps, its mean over the iterations; ``val_accuracy``, ``val_nll``, ``val_ece`` over the
        whole validation split, where there is one; ``rate``: the mean size of a step; ``seconds``.

    Returns:
        The examples of the report that is kept, and its figures; with ``start: random`` those on
        the validation split are means over ``judged_on`` fresh networks, ``val_accuracy_spread``
        is the standard deviation.

    Raises:
        ConfigError: the network has batch norm, a class has too few examples, or the best are to
            be kept and there is no validation split to tell them by.
        Diverged: the loss is not finite.
    """
    run = _Run(fresh, data, how, seed, device)
    yield from epoch_by_epoch(run, how.reports, saves)
    figures = dict(run.kept)
    if how.start == "random":
        figures |= run.judged(run.result(), how.judged_on)
    return run.result(), {k: v for k, v in figures.items() if k not in ("epoch", "seconds")}


class _Run:
    """Distillation, standing between two reports."""

    def __init__(
        self, fresh: Fresh, data: Dataset, how: Distilling, seed: int, device: torch.device
    ) -> None:
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        how.check_split(data.facts.sizes["validation"])
        self.curve: list[Report] = []
        self._fresh, self._data, self._how = fresh, data, how
        self._seed, self._device = seed, device
        self._mean, self._std = (torch.tensor(m, device=device) for m in (data.mean, data.std))
        generator = torch.Generator().manual_seed(seed_from(seed, _BEGIN))
        self._examples = Examples(*(part.to(device) for part in begin(data, how, generator)))
        learnt = {"images": how.images == "learnt", "labels": how.labels != "hard", "rates": True}
        self._best: Examples | None = None
        self._learnt = [getattr(self._examples, name) for name, is_so in learnt.items() if is_so]
        self._adam = torch.optim.Adam(self._learnt, lr=how.lr, betas=(0.5, 0.999))
        network = self._started(None)
        self._unroll = Unroll(network, self._mean, self._std, softmax=how.labels == "softmax")
        self._weights = weights_of(network)
        self._batches: Iterator[Batch] = self._real(0)

    def epoch(self) -> Report:
        """The iterations of one report, and what they came to."""
        began = time.perf_counter()
        share = self._how.share(len(self.curve))
        losses = [self._descend(iteration, next(self._batches)) for iteration in share]
        report = {
            "epoch": len(self.curve) + 1.0,
            "lr": self._how.lr_at(share[-1]),
            "train_loss": torch.stack(losses).double().mean().item(),
            "rate": F.softplus(self._examples.rates).double().mean().item(),
        }
        if not math.isfinite(report["train_loss"]):
            message = "the loss is no finite number any more: distillation diverged; "
            remedy = f"try a smaller lr than {self._how.lr:g} or a smaller rate, or set clip"
            raise Diverged(message + remedy)
        report |= self.judged(self._told(self._examples), GLANCED_AT)
        report["seconds"] = time.perf_counter() - began
        self.curve.append(report)
        if self._how.keep == "best" and self.kept is report:
            self._best = Examples(*(part.clone() for part in self._examples))
        return report

    @property
    def kept(self) -> Report:
        """The report whose examples are the result."""
        if self._how.keep == "last":
            return self.curve[-1]
        return max(self.curve, key=lambda report: report["val_accuracy"])

    def _descend(self, iteration: int, batch: Batch) -> Tensor:
        """One step of Adam on what is learnt; the loss before it."""
        told = (self._examples, batch.images, batch.labels)
        if self._how.start == "fixed":
            loss, down = self._unroll.gradient(self._weights, *told)
        else:
            with seeded(self._device, self._seed, _NETWORKS, iteration):
                weights = stacked(lambda: self._fresh().to(self._device), self._how.networks)
            loss, down = self._unroll.gradients(weights, *told)
        for part, gradient in zip(self._examples, down, strict=True):
            part.grad = gradient
        if self._how.clip is not None:
            nn.utils.clip_grad_norm_(self._learnt, self._how.clip)
        for group in self._adam.param_groups:
            group["lr"] = self._how.lr_at(iteration)
        self._adam.step()
        return loss

    def _real(self, first: int) -> Iterator[Batch]:
        """Batches of the training split from that of iteration ``first`` on, without end."""
        size = self._how.batch_size
        epoch, skipped = divmod(first, self._data.steps(size, drop_last=True))
        for number in itertools.count(epoch):
            batches = self._data.train_batches(
                batch_size=size, epoch=number, seed=self._seed, device=self._device, drop_last=True
            )
            yield from itertools.islice(batches, skipped, None)
            skipped = 0

    def judged(self, distilled: Distilled, networks: int) -> Report:
        """Figures on the whole validation split, of networks trained by the steps alone."""
        if not self._data.facts.sizes["validation"]:
            return {}
        fixed = self._how.start == "fixed"
        found = []
        for number in [None] if fixed else range(networks):
            network = self._started(number)
            take_steps(network, distilled, self._how.steps)
            found.append(validated(network, self._data, self._device))
        means = {name: statistics.fmean(f[name] for f in found) for name in found[0]}
        if not fixed:
            means["val_accuracy_spread"] = statistics.stdev(f["val_accuracy"] for f in found)
        return means

    def _started(self, number: int | None) -> Network:
        """The seed's own network, as a ``train`` stage starts it; or a fresh one to judge by."""
        words = () if number is None else (_JUDGED, number)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_from(self._seed, *words) if words else self._seed)
            return self._fresh().to(self._device)

    def result(self) -> Distilled:
        """The examples that are kept."""
        return self._told(self._best or self._examples)

    def _told(self, examples: Examples) -> Distilled:
        """Examples as they are told to whoever takes the steps."""
        images, labels, rates = examples
        mean, std = self._mean.view(-1, 1, 1), self._std.view(-1, 1, 1)
        soft = labels.softmax(dim=-1) if self._how.labels == "softmax" else labels
        parts = ((images * std + mean).flatten(0, 1), soft.flatten(0, 1), F.softplus(rates))
        return Distilled(*(part.detach().clone() for part in parts))

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`load` needs."""
        tensors = {f"examples.{k}": v for k, v in self._examples._asdict().items()}
        if self._best:
            tensors |= {f"best.{k}": v for k, v in self._best._asdict().items()}
        kept = moments(self._adam, self._learnt)
        tensors |= {f"adam.{name}": value for name, value in kept}
        tensors["curve"] = written(self.curve)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Stand where :meth:`state` was asked for."""
        for name, value in below("examples", tensors).items():
            getattr(self._examples, name).copy_(value)
        if best := below("best", tensors):
            self._best = Examples(**{name: value.to(self._device) for name, value in best.items()})
        self.curve = read(tensors["curve"])
        put_moments(self._adam, self._learnt, below("adam", tensors))
        self._batches = self._real(self._how.share(len(self.curve) - 1)[-1] + 1)


# Which random choices a generator is for.
_BEGIN, _NETWORKS, _JUDGED = 0, 1, 2
