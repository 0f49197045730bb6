"""Dataset distillation: learn synthetic examples, their soft labels and step sizes."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Generator, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.runtime.checkpointing import (
    Checkpointer,
    EpochMetrics,
    add_prefix,
    strip_prefix,
)
from stillhouse.methods.core.runtime.epoch_loop import EpochLoop, check_finite
from stillhouse.methods.core.runtime.seeding import derive_seed, seeded_torch
from stillhouse.methods.core.synthesis.distilling.distilled_set import (
    DistilledSet,
    train_on_distilled,
)
from stillhouse.methods.core.synthesis.distilling.initial_examples import initial_examples
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import (
    Examples,
    UnrolledSteps,
    copy_weights,
    stack_weights,
)
from stillhouse.methods.core.training.evaluation import evaluate_validation
from stillhouse.methods.core.training.optimisation import GradientDescent
from stillhouse.spaces.modules.network import Network

NetworkFactory = Callable[[], Network]
"""Builds a new network from torch's global generator."""

REPORT_NETWORKS = 3
"""New networks that evaluate the examples in each epoch; the final ones are ``judged_on``."""


def distil(
    network_factory: NetworkFactory,
    data: Dataset,
    settings: Distilling,
    *,
    seed: int,
    device: torch.device,
    checkpointer: Checkpointer | None = None,
) -> Generator[EpochMetrics, None, tuple[DistilledSet, EpochMetrics]]:
    """Learn examples that train networks of ``network_factory`` in ``steps * passes`` steps.

    Every random choice depends on ``seed`` and the iteration, so a run that resumes from
    ``checkpointer`` ends with the same examples. The test split is not used.

    Yields:
        ``epoch`` (from 1; a share of the iterations), ``lr``, ``train_loss``: mean over the
        iterations of the cross entropy on real batches after the steps; ``rate``: the mean step
        size; with a validation split ``val_accuracy``, ``val_nll`` and ``val_ece``; ``seconds``.

    Returns:
        The examples of the selected epoch, and its metrics. With ``start: random`` validation
        metrics are means over ``judged_on`` new networks, and ``val_accuracy_spread`` is the
        standard deviation of the accuracy.

    Raises:
        ConfigError: the network has batch norm, a class has too few examples, or ``keep`` is
            ``best`` without a validation split.
        Diverged: the loss is not finite.
    """
    run = _DistillationRun(network_factory, data, settings, seed, device)
    yield from run.run(settings.num_reports, checkpointer)
    metrics = dict(run.selected_metrics)
    if settings.start == "random":
        metrics |= run.evaluate(run.result(), settings.judged_on)
    return run.result(), {k: v for k, v in metrics.items() if k not in ("epoch", "seconds")}


class _DistillationRun(EpochLoop):
    """The distillation of one data set; an epoch is a share of the iterations."""

    def __init__(
        self,
        network_factory: NetworkFactory,
        data: Dataset,
        settings: Distilling,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(device)
        settings.check_split(data.facts.sizes["validation"])
        self._network_factory, self._data, self._settings = network_factory, data, settings
        self._seed = seed
        self._mean, self._std = (torch.tensor(m, device=device) for m in (data.mean, data.std))
        generator = torch.Generator().manual_seed(derive_seed(seed, _BEGIN_STREAM))
        self._examples = Examples(
            *(part.to(device) for part in initial_examples(data, settings, generator))
        )
        learnt = {
            "images": settings.images == "learnt",
            "labels": settings.labels != "hard",
            "rates": True,
        }
        parts = [getattr(self._examples, name) for name, is_learnt in learnt.items() if is_learnt]
        adam = torch.optim.Adam(parts, lr=settings.lr, betas=(0.5, 0.999))
        self._descent = GradientDescent(adam, parts, settings.clip)
        network = self._new_network(None)
        self._unroll = UnrolledSteps(
            network, self._mean, self._std, softmax=settings.labels == "softmax"
        )
        self._weights = copy_weights(network)
        self._batches: Iterator[Batch] = self._real_batches(0)

    def run_epoch(self, epoch: int) -> EpochMetrics:
        iterations = self._settings.iterations_of(epoch)
        losses = [self._train_step(iteration, next(self._batches)) for iteration in iterations]
        metrics = {
            "epoch": epoch + 1.0,
            "lr": self._settings.lr_at(iterations[-1]),
            "train_loss": torch.stack(losses).double().mean().item(),
            "rate": F.softplus(self._examples.rates).double().mean().item(),
        }
        check_finite(metrics, self._settings.divergence_remedy)
        metrics |= self.evaluate(self._to_distilled_set(self._examples), REPORT_NETWORKS)
        if self._settings.keep == "best":
            previous = max((past["val_accuracy"] for past in self.curve), default=-1.0)
            if metrics["val_accuracy"] > previous:
                self.best = {k: v.clone() for k, v in self._examples._asdict().items()}
        return metrics

    @property
    def selected_metrics(self) -> EpochMetrics:
        """The metrics of the epoch whose examples are the result."""
        if self._settings.keep == "last":
            return self.curve[-1]
        return max(self.curve, key=lambda metrics: metrics["val_accuracy"])

    def _train_step(self, iteration: int, batch: Batch) -> Tensor:
        """One step of Adam; the loss before it."""
        inputs = (self._examples, batch.images, batch.labels)
        if self._settings.start == "fixed":
            loss, gradients = self._unroll.gradient(self._weights, *inputs)
        else:
            with seeded_torch(self.device, self._seed, _NETWORKS_STREAM, iteration):
                weights = stack_weights(
                    lambda: self._network_factory().to(self.device), self._settings.networks
                )
            loss, gradients = self._unroll.gradients(weights, *inputs)
        for part, gradient in zip(self._examples, gradients, strict=True):
            part.grad = gradient
        self._descent.step(self._settings.lr_at(iteration))
        return loss

    def _real_batches(self, first: int) -> Iterator[Batch]:
        """An endless stream of training batches, from that of iteration ``first``."""
        size = self._settings.batch_size
        epoch, skipped = divmod(first, self._data.steps(size, drop_last=True))
        for number in itertools.count(epoch):
            batches = self._data.train_batches(
                batch_size=size, epoch=number, seed=self._seed, device=self.device, drop_last=True
            )
            yield from itertools.islice(batches, skipped, None)
            skipped = 0

    def evaluate(self, distilled: DistilledSet, networks: int) -> EpochMetrics:
        """Validation metrics of networks trained on the distilled examples."""
        if not self._data.facts.sizes["validation"]:
            return {}
        is_fixed = self._settings.start == "fixed"
        metrics = []
        for number in [None] if is_fixed else range(networks):
            network = self._new_network(number)
            train_on_distilled(network, distilled, self._settings.steps)
            metrics.append(evaluate_validation(network, self._data, self.device))
        means = {name: statistics.fmean(f[name] for f in metrics) for name in metrics[0]}
        if not is_fixed:
            means["val_accuracy_spread"] = statistics.stdev(f["val_accuracy"] for f in metrics)
        return means

    def _new_network(self, number: int | None) -> Network:
        """The initial network of a ``train`` stage with this seed; or a new one to evaluate."""
        entropy = () if number is None else (_EVALUATION_STREAM, number)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, *entropy) if entropy else self._seed)
            return self._network_factory().to(self.device)

    def result(self) -> DistilledSet:
        """The examples of the selected epoch."""
        return self._to_distilled_set(Examples(**self.best) if self.best else self._examples)

    def _to_distilled_set(self, examples: Examples) -> DistilledSet:
        """The examples as training uses them."""
        images, labels, rates = examples
        mean, std = self._mean.view(-1, 1, 1), self._std.view(-1, 1, 1)
        probabilities = labels.softmax(dim=-1) if self._settings.labels == "softmax" else labels
        parts = (
            (images * std + mean).flatten(0, 1),
            probabilities.flatten(0, 1),
            F.softplus(rates),
        )
        return DistilledSet(*(part.detach().clone() for part in parts))

    def tensors(self) -> dict[str, Tensor]:
        return add_prefix("examples", self._examples._asdict()) | add_prefix(
            "adam", self._descent.state()
        )

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in strip_prefix("examples", tensors).items():
            getattr(self._examples, name).copy_(value)
        self._descent.load(strip_prefix("adam", tensors))
        self._batches = self._real_batches(
            self._settings.iterations_of(len(self.curve) - 1)[-1] + 1
        )


# Streams of random numbers, one for each purpose.
_BEGIN_STREAM, _NETWORKS_STREAM, _EVALUATION_STREAM = 0, 1, 2
