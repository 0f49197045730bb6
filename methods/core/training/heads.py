"""Training of heads on a frozen network; each head keeps its own best epoch.

    L = sum_h mean_b -log softmax(head_h(a_h))[b, label]

a_h [B, C, H, W] is the network's map before head h, in eval mode and without gradients. Asadian and
Salehi-Abari 2021, section 3, choose the epoch of each head by its validation accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.runtime.checkpointing import (
    Checkpointer,
    EpochMetrics,
    add_prefix,
    strip_prefix,
)
from stillhouse.methods.core.runtime.epoch_loop import EpochLoop, check_finite
from stillhouse.methods.core.runtime.folding import fold_batch_norm
from stillhouse.methods.core.runtime.precision import autocast, autocast_dtype
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.training.optimisation import GradientDescent
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
    """Train the heads of ``network`` in place; its blocks do not change.

    With a validation split, each head ends with the weights of its best epoch there; otherwise with
    its last weights.

    Yields:
        The metrics of each epoch: ``epoch`` (from 1), ``lr`` of the last step, ``train_loss`` (the
        sum) and ``train_<head>``, means over the examples; ``<head>_val_accuracy``,
        ``<head>_best_val_accuracy`` and ``<head>_best_epoch`` so far; ``seconds``.

    Raises:
        Diverged: a loss is not finite.
    """
    run = _HeadsRun(network, data, training, seed, device)
    yield from run.run(training.epochs, checkpointer)
    run.restore_best()


class _HeadsRun(EpochLoop):
    """The training of the heads of one network."""

    def __init__(
        self, network: Network, data: Dataset, training: Training, seed: int, device: torch.device
    ) -> None:
        super().__init__(device)
        self._data, self._training, self._seed = data, training, seed
        self._dtype = autocast_dtype(training.precision, device, data.shape)
        self._network = network.to(device).eval().requires_grad_(False)
        self._heads = {head_tap(block): head for block, head in network.heads.items()}
        sample = next(iter(data.batches("train", batch_size=8, device=device))).images
        # The folded network shares the heads. No layer before them needs a gradient.
        self._folded_network = fold_batch_norm(network, sample).to(
            memory_format=torch.channels_last
        )
        network.heads.requires_grad_(True)
        self._descent = GradientDescent.from_training(list(network.heads.parameters()), training)

    def run_epoch(self, epoch: int) -> EpochMetrics:
        with seeded_torch(self.device, self._seed, epoch):
            metrics = self._train_steps(epoch)
        if self._data.facts.sizes["validation"]:
            metrics |= self._validate(epoch)
        check_finite(metrics, self._training.divergence_remedy)
        return metrics

    def restore_best(self) -> None:
        """Give every head the weights of its best epoch."""
        for name, head in self._heads.items():
            head.load_state_dict(strip_prefix(name, self.best) or head.state_dict())
        self._network.to(memory_format=torch.contiguous_format).requires_grad_(True)

    def _train_steps(self, epoch: int) -> EpochMetrics:
        size = self._training.batch_size
        steps = self._data.steps(size)
        sums = torch.zeros(len(self._heads), device=self.device)
        images, lr = 0, 0.0
        batches = self._data.train_batches(
            batch_size=size, epoch=epoch, seed=self._seed, device=self.device
        )
        for step, batch in enumerate(batches):
            lr = self._training.lr_at(epoch + step / steps)
            sums += len(batch.labels) * self._step(batch, lr)
            images += len(batch.labels)
        means = (sums / images).tolist()
        head_losses = {f"train_{name}": mean for name, mean in zip(self._heads, means, strict=True)}
        return {"epoch": epoch + 1.0, "lr": lr, "train_loss": sum(means), **head_losses}

    def _step(self, batch: Batch, lr: float) -> Tensor:
        """One step of all heads; the cross entropy of each before the step."""
        losses = torch.stack([F.cross_entropy(x, batch.labels) for x in self._head_logits(batch)])
        self._descent.minimise(losses.sum(), lr)
        return losses.detach()

    def _head_logits(self, batch: Batch) -> list[Tensor]:
        """The logits [B, classes] of every head."""
        with autocast(self._dtype, self.device):
            features = self._folded_network(batch.images, tuple(self._heads)).features
        return [features[name].float() for name in self._heads]

    def _validate(self, epoch: int) -> EpochMetrics:
        """The validation accuracy of each head; the weights of new best heads are copied."""
        correct = torch.zeros(len(self._heads), device=self.device)
        with torch.no_grad():
            for batch in self._data.batches(
                "validation", batch_size=_VALIDATION_BATCH_SIZE, device=self.device
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
                head_state = add_prefix(name, self._heads[name].state_dict())
                self.best |= {k: v.clone() for k, v in head_state.items()}
            metrics |= {f"{name}_val_accuracy": accuracy, f"{name}_best_val_accuracy": best}
            metrics[f"{name}_best_epoch"] = best_epoch
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        heads = add_prefix("heads", self._network.heads.state_dict())
        return heads | add_prefix("optimizer", self._descent.state())

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._network.heads.load_state_dict(strip_prefix("heads", tensors))
        self._descent.load(strip_prefix("optimizer", tensors))
