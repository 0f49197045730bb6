"""Evaluation: how good a network's answers are, and how well it knows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stillhouse.methods.core.config.training import Precision
from stillhouse.methods.core.data.base.splits import Split
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.runtime.communication import ALONE, Worker
from stillhouse.methods.core.runtime.precision import autocast, resolve_precision
from stillhouse.methods.core.training.subclass_metrics import subclass_figures, subclass_names
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.modules.subclasses import before_classes, subclasses_of

BINS = 15
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
    """Figures over a whole split; the network is moved to ``device`` and keeps its mode.

    Returns:
        ``accuracy``: fraction of right answers. ``nll``: mean negative log likelihood of the
        labels, in nats. ``ece``: expected calibration error over 15 bins of equal width (Guo et
        al. 2017). With teachers, ``agreement``: fraction of answers that are also those of the
        teachers' mean probability (Stanton et al. 2021). On data with some classes only,
        ``task_accuracy``: right answers where only those can be given. Of a network that splits
        classes, what :func:`~stillhouse.methods.core.training.subclass_metrics.subclass_figures`
        tells.

    Raises:
        ConfigError: the split is empty.
    """
    device = torch.device(device)
    dtype = resolve_precision(precision, device, data.shape)
    answers = None
    if teachers:
        sample = next(iter(data.batches(split, batch_size=8, device=device))).images
        answers = Teachers(teachers, data, sample, dtype).answers(split)
    return measure(network, data, split, device, dtype, answers, batch_size)


def validated(
    network: Network,
    data: Dataset,
    device: torch.device | str,
    teachers: Sequence[FrozenTeacher] = (),
) -> dict[str, float]:
    """Like :func:`evaluate` on the validation split, as ``val_accuracy`` and so on.

    Empty where that split is.
    """
    if not data.facts.sizes["validation"]:
        return {}
    scores = evaluate(network, data, "validation", device=device, teachers=teachers)
    return {f"val_{name}": value for name, value in scores.items()}


def measure(
    network: Network,
    data: Dataset,
    split: Split,
    device: torch.device,
    dtype: torch.dtype,
    answers: Tensor | None,
    batch_size: int = 512,
    worker: Worker = ALONE,
) -> dict[str, float]:
    """Like :func:`evaluate`, with the teachers' ``answers`` [N] known.

    ``worker`` is one of those that share the images, all of which ask the same.
    """
    was_training = network.training
    network.to(device).eval()
    parts, tap = subclasses_of(network), before_classes(network)
    task = data.task_classes()
    task = task if task is None else task.to(device)
    nll, confidence, guess, labels, split_logits, task_guess = [], [], [], [], [], []
    for batch in data.batches(split, batch_size=batch_size, device=device):
        with torch.no_grad(), autocast(dtype, device):
            taps = (tap,) if parts > 1 else ()
            logits, features = worker.outputs(network, batch.images, taps)
        log_q = logits.float().log_softmax(dim=1)
        best = log_q.max(dim=1)
        nll.append(-log_q.gather(1, batch.labels[:, None])[:, 0])
        confidence.append(best.values.exp())
        guess.append(best.indices)
        labels.append(batch.labels)
        if task is not None:
            task_guess.append(task[log_q[:, task].argmax(dim=1)])
        split_logits += [feature.float() for feature in features.values()]
    network.train(was_training)
    answer, truth = torch.cat(guess), torch.cat(labels)
    right = answer == truth
    figures = {
        "accuracy": _mean(right),
        "nll": _mean(torch.cat(nll)),
        "ece": calibration_error(torch.cat(confidence), right),
    }
    if answers is not None:
        figures["agreement"] = _mean(answer == answers)
    if task is not None:
        figures["task_accuracy"] = _mean(torch.cat(task_guess) == truth)
    if parts > 1:
        hidden = data.hidden_labels(split)
        figures |= subclass_figures(torch.cat(split_logits), truth, parts, hidden)
    return figures


def validated_names(data: DataConfig, subclasses: int, *, teachers: bool = False) -> frozenset[str]:
    """Names of the figures of :func:`validated`, known before anything is measured.

    Args:
        subclasses: into how many the network splits every class; 1: into none.
        teachers: whether there are any to compare with.
    """
    if not facts(data).sizes["validation"]:
        return frozenset()
    names = {"accuracy", "nll", "ece"}
    names |= {"agreement"} if teachers else set()
    names |= {"task_accuracy"} if data.classes is not None else set()
    if subclasses > 1:
        names |= {f"subclass_{name}" for name in subclass_names(hidden=data.merge is not None)}
    return frozenset(f"val_{name}" for name in names)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Sum over bins of |accuracy - mean confidence|, each weighted with its share of examples.

    Args:
        confidence: [N], the probability given to the answer; bins are open below, closed above.
        right: [N], bool, whether the answer is the label.
    """
    confidence = confidence.cpu().double()
    bins = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1).double()[1:-1])
    gaps = torch.zeros(BINS, dtype=torch.float64)
    gaps.index_add_(0, bins, right.cpu().double() - confidence)
    return gaps.abs().sum().item() / len(confidence)


def _mean(values: Tensor) -> float:
    return values.cpu().double().mean().item()
