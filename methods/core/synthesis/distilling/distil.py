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
    Checkpointer,
    EpochMetrics,
    json_to_tensor,
    run_epochs,
    tensor_to_json,
)
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
from stillhouse.methods.core.training.learner import (
    load_optimizer_state,
    optimizer_state,
    strip_prefix,
)
from stillhouse.methods.core.training.train import Diverged
from stillhouse.spaces.modules.network import Network

NetworkFactory = Callable[[], Network]
"""A new network from torch's global generator."""

REPORT_NETWORKS = 3
"""Fresh networks by which a report judges; ``judged_on`` of them judge what was learnt."""


def distil(
    network_factory: NetworkFactory,
    data: Dataset,
    settings: Distilling,
    *,
    seed: int,
    device: torch.device,
    checkpointer: Checkpointer | None = None,
) -> Generator[EpochMetrics, None, tuple[DistilledSet, EpochMetrics]]:
    """Learn examples that train networks like ``network_factory``'s in ``settings.steps *
    settings.passes`` steps.

    Every random choice depends on ``seed`` and the iteration, so what resumes from ``checkpointer``
    ends with the same examples. Only training and validation split are looked at.

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
    run = _DistillationRun(network_factory, data, settings, seed, device)
    yield from run_epochs(run, settings.num_reports, checkpointer)
    metrics = dict(run.selected_metrics)
    if settings.start == "random":
        metrics |= run.evaluate(run.result(), settings.judged_on)
    return run.result(), {k: v for k, v in metrics.items() if k not in ("epoch", "seconds")}


class _DistillationRun:
    """Distillation, standing between two reports."""

    def __init__(
        self,
        network_factory: NetworkFactory,
        data: Dataset,
        settings: Distilling,
        seed: int,
        device: torch.device,
    ) -> None:
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True
        settings.check_split(data.facts.sizes["validation"])
        self.curve: list[EpochMetrics] = []
        self._network_factory, self._data, self._settings = network_factory, data, settings
        self._seed, self._device = seed, device
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
        self._best: Examples | None = None
        self._learnt_tensors = [
            getattr(self._examples, name) for name, is_so in learnt.items() if is_so
        ]
        self._optimizer = torch.optim.Adam(self._learnt_tensors, lr=settings.lr, betas=(0.5, 0.999))
        network = self._new_network(None)
        self._unroll = UnrolledSteps(
            network, self._mean, self._std, softmax=settings.labels == "softmax"
        )
        self._weights = copy_weights(network)
        self._batches: Iterator[Batch] = self._real_batches(0)

    def epoch(self) -> EpochMetrics:
        """The iterations of one report, and what they came to."""
        start_time = time.perf_counter()
        iterations = self._settings.iterations_of(len(self.curve))
        losses = [self._train_step(iteration, next(self._batches)) for iteration in iterations]
        metrics = {
            "epoch": len(self.curve) + 1.0,
            "lr": self._settings.lr_at(iterations[-1]),
            "train_loss": torch.stack(losses).double().mean().item(),
            "rate": F.softplus(self._examples.rates).double().mean().item(),
        }
        if not math.isfinite(metrics["train_loss"]):
            message = "the loss is no finite number any more: distillation diverged; "
            remedy = f"try a smaller lr than {self._settings.lr:g} or a smaller rate, or set clip"
            raise Diverged(message + remedy)
        metrics |= self.evaluate(self._to_distilled_set(self._examples), REPORT_NETWORKS)
        metrics["seconds"] = time.perf_counter() - start_time
        self.curve.append(metrics)
        if self._settings.keep == "best" and self.selected_metrics is metrics:
            self._best = Examples(*(part.clone() for part in self._examples))
        return metrics

    @property
    def selected_metrics(self) -> EpochMetrics:
        """The report whose examples are the result."""
        if self._settings.keep == "last":
            return self.curve[-1]
        return max(self.curve, key=lambda report: report["val_accuracy"])

    def _train_step(self, iteration: int, batch: Batch) -> Tensor:
        """One step of Adam on what is learnt; the loss before it."""
        inputs = (self._examples, batch.images, batch.labels)
        if self._settings.start == "fixed":
            loss, gradients = self._unroll.gradient(self._weights, *inputs)
        else:
            with seeded_torch(self._device, self._seed, _NETWORKS_STREAM, iteration):
                weights = stack_weights(
                    lambda: self._network_factory().to(self._device), self._settings.networks
                )
            loss, gradients = self._unroll.gradients(weights, *inputs)
        for part, gradient in zip(self._examples, gradients, strict=True):
            part.grad = gradient
        if self._settings.clip is not None:
            nn.utils.clip_grad_norm_(self._learnt_tensors, self._settings.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.lr_at(iteration)
        self._optimizer.step()
        return loss

    def _real_batches(self, first: int) -> Iterator[Batch]:
        """Batches of the training split from that of iteration ``first`` on, without end."""
        size = self._settings.batch_size
        epoch, skipped = divmod(first, self._data.steps(size, drop_last=True))
        for number in itertools.count(epoch):
            batches = self._data.train_batches(
                batch_size=size, epoch=number, seed=self._seed, device=self._device, drop_last=True
            )
            yield from itertools.islice(batches, skipped, None)
            skipped = 0

    def evaluate(self, distilled: DistilledSet, networks: int) -> EpochMetrics:
        """Figures on the whole validation split, of networks trained by the steps alone."""
        if not self._data.facts.sizes["validation"]:
            return {}
        is_fixed = self._settings.start == "fixed"
        metrics = []
        for number in [None] if is_fixed else range(networks):
            network = self._new_network(number)
            train_on_distilled(network, distilled, self._settings.steps)
            metrics.append(evaluate_validation(network, self._data, self._device))
        means = {name: statistics.fmean(f[name] for f in metrics) for name in metrics[0]}
        if not is_fixed:
            means["val_accuracy_spread"] = statistics.stdev(f["val_accuracy"] for f in metrics)
        return means

    def _new_network(self, number: int | None) -> Network:
        """The seed's own network, as a ``train`` stage starts it; or a fresh one to judge by."""
        entropy = () if number is None else (_EVALUATION_STREAM, number)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self._seed, *entropy) if entropy else self._seed)
            return self._network_factory().to(self._device)

    def result(self) -> DistilledSet:
        """The examples that are kept."""
        return self._to_distilled_set(self._best or self._examples)

    def _to_distilled_set(self, examples: Examples) -> DistilledSet:
        """Examples as they are told to whoever takes the steps."""
        images, labels, rates = examples
        mean, std = self._mean.view(-1, 1, 1), self._std.view(-1, 1, 1)
        probabilities = labels.softmax(dim=-1) if self._settings.labels == "softmax" else labels
        parts = (
            (images * std + mean).flatten(0, 1),
            probabilities.flatten(0, 1),
            F.softplus(rates),
        )
        return DistilledSet(*(part.detach().clone() for part in parts))

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`load` needs."""
        tensors = {f"examples.{k}": v for k, v in self._examples._asdict().items()}
        if self._best:
            tensors |= {f"best.{k}": v for k, v in self._best._asdict().items()}
        optimizer_tensors = optimizer_state(self._optimizer, self._learnt_tensors)
        tensors |= {f"adam.{name}": value for name, value in optimizer_tensors}
        tensors["curve"] = json_to_tensor(self.curve)
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Stand where :meth:`state` was asked for."""
        for name, value in strip_prefix("examples", tensors).items():
            getattr(self._examples, name).copy_(value)
        if best := strip_prefix("best", tensors):
            self._best = Examples(**{name: value.to(self._device) for name, value in best.items()})
        self.curve = tensor_to_json(tensors["curve"])
        load_optimizer_state(self._optimizer, self._learnt_tensors, strip_prefix("adam", tensors))
        self._batches = self._real_batches(
            self._settings.iterations_of(len(self.curve) - 1)[-1] + 1
        )


# Which random choices a generator is for.
_BEGIN_STREAM, _NETWORKS_STREAM, _EVALUATION_STREAM = 0, 1, 2
