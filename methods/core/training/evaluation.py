"""Evaluation: accuracy and calibration of a network on a split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.methods.core.config.training import Precision
from stillhouse.methods.core.data.base.splits import Split
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.runtime.communication import SINGLE_PROCESS, Communicator
from stillhouse.methods.core.runtime.precision import autocast, autocast_dtype
from stillhouse.methods.core.training.subclass_metrics import (
    compute_subclass_metrics,
    subclass_metric_names,
)
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.modules.subclasses import num_subclasses, subclass_logits_block

CALIBRATION_BINS = 15
"""Of the calibration error (Guo et al. 2017, section 2)."""


def evaluate(
    network: Network,
    data: Dataset,
    split: Split,
    *,
    device: torch.device | str,
    batch_size: int = 512,
    precision: Precision = "auto",
    teachers: Sequence[FrozenTeacher] = (),
) -> dict[str, float]:
    """Metrics over a whole split; the network is moved to ``device`` and keeps its mode.

    Returns:
        ``accuracy``: fraction of correct predictions. ``nll``: mean negative log likelihood of the
        labels, in nats. ``ece``: expected calibration error over 15 bins of equal width (Guo et
        al. 2017). With teachers, ``agreement``: fraction of predictions equal to those of the
        teachers' mean probability (Stanton et al. 2021). On data with some classes only,
        ``task_accuracy``: accuracy with predictions among those classes. For a network with
        subclasses, the metrics of ``compute_subclass_metrics``.

    Raises:
        ConfigError: the split is empty.
    """
    device = torch.device(device)
    dtype = autocast_dtype(precision, device, data.shape)
    teacher_predictions = None
    if teachers:
        sample = next(iter(data.batches(split, batch_size=8, device=device))).images
        teacher_predictions = Teachers(teachers, data, sample, dtype).predicted_classes(split)
    return compute_metrics(network, data, split, device, dtype, teacher_predictions, batch_size)


def evaluate_validation(
    network: Network,
    data: Dataset,
    device: torch.device | str,
    teachers: Sequence[FrozenTeacher] = (),
) -> dict[str, float]:
    """Like :func:`evaluate` on the validation split, as ``val_accuracy`` and so on.

    Empty if that split is empty.
    """
    if not data.facts.sizes["validation"]:
        return {}
    scores = evaluate(network, data, "validation", device=device, teachers=teachers)
    return {f"val_{name}": value for name, value in scores.items()}


def compute_metrics(
    network: Network,
    data: Dataset,
    split: Split,
    device: torch.device,
    dtype: torch.dtype,
    teacher_predictions: Tensor | None,
    batch_size: int = 512,
    communicator: Communicator = SINGLE_PROCESS,
) -> dict[str, float]:
    """Like :func:`evaluate`, with given ``teacher_predictions`` [N].

    Processes of ``communicator`` share the images; all must call this with the same arguments.
    """
    was_training = network.training
    network.to(device).eval()
    subclasses, tap = num_subclasses(network), subclass_logits_block(network)
    task = data.task_classes()
    task = task if task is None else task.to(device)
    nll, confidence, predicted, labels, subclass_logits, task_predicted = [], [], [], [], [], []
    for batch in data.batches(split, batch_size=batch_size, device=device):
        with torch.no_grad(), autocast(dtype, device):
            taps = (tap,) if subclasses > 1 else ()
            logits, features = communicator.forward_batch(network, batch.images, taps)
        log_q = logits.float().log_softmax(dim=1)
        top = log_q.max(dim=1)
        nll.append(-log_q.gather(1, batch.labels[:, None])[:, 0])
        confidence.append(top.values.exp())
        predicted.append(top.indices)
        labels.append(batch.labels)
        if task is not None:
            task_predicted.append(task[log_q[:, task].argmax(dim=1)])
        subclass_logits += [feature.float() for feature in features.values()]
    network.train(was_training)
    predictions, targets = torch.cat(predicted), torch.cat(labels)
    correct = predictions == targets
    metrics = {
        "accuracy": _mean_of(correct),
        "nll": _mean_of(torch.cat(nll)),
        "ece": calibration_error(torch.cat(confidence), correct),
    }
    if teacher_predictions is not None:
        metrics["agreement"] = _mean_of(predictions == teacher_predictions)
    if task is not None:
        metrics["task_accuracy"] = _mean_of(torch.cat(task_predicted) == targets)
    if subclasses > 1:
        hidden_labels = data.labels_before_merge(split)
        metrics |= compute_subclass_metrics(
            torch.cat(subclass_logits), targets, subclasses, hidden_labels
        )
    return metrics


def validation_metric_names(
    data: DataConfig, subclasses: int, *, teachers: bool = False
) -> frozenset[str]:
    """Names of the metrics that :func:`evaluate_validation` will return.

    Args:
        subclasses: subclasses per class of the network; 1 means none.
        teachers: whether predictions are compared with teachers.
    """
    if not facts(data).sizes["validation"]:
        return frozenset()
    names = {"accuracy", "nll", "ece"}
    names |= {"agreement"} if teachers else set()
    names |= {"task_accuracy"} if data.classes is not None else set()
    if subclasses > 1:
        names |= {
            f"subclass_{name}"
            for name in subclass_metric_names(has_hidden_labels=data.merge is not None)
        }
    return frozenset(f"val_{name}" for name in names)


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Sum over bins of |accuracy - mean confidence|, each weighted with its share of examples.

    Args:
        confidence: [N], the probability of the prediction; bins are open below, closed above.
        correct: [N], bool, whether the prediction is the label.
    """
    confidence = confidence.cpu().double()
    bins = torch.bucketize(confidence, torch.linspace(0, 1, CALIBRATION_BINS + 1).double()[1:-1])
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, correct.cpu().double() - confidence)
    return gaps.abs().sum().item() / len(confidence)


def _mean_of(values: Tensor) -> float:
    return values.cpu().double().mean().item()
