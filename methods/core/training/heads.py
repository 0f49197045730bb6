"""Heads learn on a frozen network: all together, and each keeps its own best epoch.

    L = sum_h mean_b -log softmax(head_h(a_h))[b, label]

a_h [B, C, H, W] is the network's own map, in eval mode and without gradients. Asadian and
Salehi-Abari 2021, section 3, where each head's epoch is chosen by its validation accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.runtime.checkpointing import (
    Checkpointer,
    EpochMetrics,
    json_to_tensor,
    run_epochs,
    tensor_to_json,
)
from stillhouse.methods.core.runtime.folding import fold_batch_norm
from stillhouse.methods.core.runtime.precision import autocast, autocast_dtype
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.training.learner import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    strip_prefix,
)
from stillhouse.methods.core.training.train import check_finite
from stillhouse.spaces.modules.network import Network, head_tap

_VALIDATION_BATCH_SIZE = 512


def train_heads(
    network: Network,
    data: Dataset,
    training: Training,
    *,
    seed: int,
    device: torch.device,
    checkpointer: Checkpointer | None = None,
) -> Iterator[EpochMetrics]:
    """Teach the heads of ``network`` in place; its blocks stay as they are, bit for bit.

    Where something is held out, each head ends as it was in its own best epoch there; else, as
    it was last.

    Yields:
        A report an epoch: ``epoch`` (from 1), ``lr`` of the last step, ``train_loss`` (the sum)
        and ``train_<head>``, means over the examples seen; ``<head>_val_accuracy``,
        ``<head>_best_val_accuracy`` and ``<head>_best_epoch`` so far; ``seconds``.

    Raises:
        Diverged: a loss is not finite.
    """
    run = _HeadsRun(network, data, training, seed, device)
    yield from run_epochs(run, training.epochs, checkpointer)
    run.restore_best()


class _HeadsRun:
    """The heads of one network, standing between two epochs."""

    def __init__(
        self, network: Network, data: Dataset, training: Training, seed: int, device: torch.device
    ) -> None:
        self.curve: list[EpochMetrics] = []
        self._best: dict[str, dict[str, Tensor]] = {}
        self._data, self._training, self._seed, self._device = data, training, seed, device
        self._dtype = autocast_dtype(training.precision, device, data.shape)
        self._network = network.to(device).eval().requires_grad_(False)
        self._heads = {head_tap(block): head for block, head in network.heads.items()}
        sample = next(iter(data.batches("train", batch_size=8, device=device))).images
        # It shares the heads. Nothing before them wants a gradient, so no graph grows there.
        self._folded_network = fold_batch_norm(network, sample).to(
            memory_format=torch.channels_last
        )
        network.heads.requires_grad_(True)
        self._parameters = list(network.heads.parameters())
        self._optimizer = build_optimizer(self._parameters, training)

    def epoch(self) -> EpochMetrics:
        """Train and measure one epoch; its report also joins the curve."""
        epoch, start_time = len(self.curve), time.perf_counter()
        with seeded_torch(self._device, self._seed, epoch):
            metrics = self._train_steps(epoch)
        if self._data.facts.sizes["validation"]:
            metrics |= self._validate(epoch)
        check_finite(metrics, self._training)
        metrics["seconds"] = time.perf_counter() - start_time
        self.curve.append(metrics)
        return metrics

    def restore_best(self) -> None:
        """Leave every head as it was in its best epoch."""
        for name, head in self._heads.items():
            head.load_state_dict(self._best.get(name, head.state_dict()))
        self._network.to(memory_format=torch.contiguous_format).requires_grad_(True)

    def _train_steps(self, epoch: int) -> EpochMetrics:
        size = self._training.batch_size
        steps = self._data.steps(size)
        sums = torch.zeros(len(self._heads), device=self._device)
        images, lr = 0, 0.0
        batches = self._data.train_batches(
            batch_size=size, epoch=epoch, seed=self._seed, device=self._device
        )
        for step, batch in enumerate(batches):
            lr = self._training.lr_at(epoch + step / steps)
            sums += len(batch.labels) * self._step(batch, lr)
            images += len(batch.labels)
        means = (sums / images).tolist()
        head_losses = {f"train_{name}": mean for name, mean in zip(self._heads, means, strict=True)}
        return {"epoch": epoch + 1.0, "lr": lr, "train_loss": sum(means), **head_losses}

    def _step(self, batch: Batch, lr: float) -> Tensor:
        """One step of all heads; the cross entropy of each before it."""
        losses = torch.stack([F.cross_entropy(x, batch.labels) for x in self._head_logits(batch)])
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.sum())
        if self._training.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._training.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        return losses.detach()

    def _head_logits(self, batch: Batch) -> list[Tensor]:
        """The logits [B, classes] of every head."""
        with autocast(self._dtype, self._device):
            features = self._folded_network(batch.images, tuple(self._heads)).features
        return [features[name].float() for name in self._heads]

    def _validate(self, epoch: int) -> EpochMetrics:
        """Each head's accuracy over all that is held out; those at their best are remembered."""
        correct = torch.zeros(len(self._heads), device=self._device)
        with torch.no_grad():
            for batch in self._data.batches(
                "validation", batch_size=_VALIDATION_BATCH_SIZE, device=self._device
            ):
                predictions = torch.stack(self._head_logits(batch)).argmax(dim=2)
                correct += (predictions == batch.labels).sum(dim=1)
        previous = self.curve[-1] if self.curve else {}
        metrics: EpochMetrics = {}
        for name, count in zip(self._heads, correct.tolist(), strict=True):
            accuracy = count / self._data.facts.sizes["validation"]
            best = previous.get(f"{name}_best_val_accuracy", -1.0)
            best_epoch = previous.get(f"{name}_best_epoch", 0.0)
            if accuracy > best:
                best, best_epoch = accuracy, epoch + 1.0
                head_state = self._heads[name].state_dict()
                self._best[name] = {k: v.clone() for k, v in head_state.items()}
            metrics |= {f"{name}_val_accuracy": accuracy, f"{name}_best_val_accuracy": best}
            metrics[f"{name}_best_epoch"] = best_epoch
        return metrics

    def state(self) -> dict[str, Tensor]:
        """Everything that :meth:`load` needs, as tensors that any file format takes."""
        tensors = {f"heads.{k}": v for k, v in self._network.heads.state_dict().items()}
        tensors |= {
            f"optimizer.{k}": v for k, v in optimizer_state(self._optimizer, self._parameters)
        }
        for name, head_state in self._best.items():
            tensors |= {f"best.{name}.{k}": v for k, v in head_state.items()}
        tensors["curve"] = json_to_tensor(self.curve)
        return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Stand where :meth:`state` was asked for."""
        self._network.heads.load_state_dict(strip_prefix("heads", tensors))
        load_optimizer_state(self._optimizer, self._parameters, strip_prefix("optimizer", tensors))
        best = {k: v.to(self._device) for k, v in strip_prefix("best", tensors).items()}
        self._best = {
            name: head_state for name in self._heads if (head_state := strip_prefix(name, best))
        }
        self.curve = tensor_to_json(tensors["curve"])
