"""Forgetting: accuracy on earlier training data after training on other data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.modules.network import Network


def earlier_data(start: Stage, data: DataConfig) -> tuple[DataConfig, ...]:
    """Training data of the warm-start chain of ``start``, latest first.

    Skips data with the validation split of ``data`` or of later data. Also skips data that cannot
    be evaluated: another image shape, other classes, no validation split.
    """
    by_fingerprint = {fingerprint(data.validation_identity()): data}
    for stage in start.warm_start_chain():
        by_fingerprint.setdefault(fingerprint(stage.data.validation_identity()), stage.data)
    about = facts(data)
    return tuple(
        candidate
        for candidate in list(by_fingerprint.values())[1:]
        if (earlier_facts := facts(candidate)).shape == about.shape
        and earlier_facts.classes == about.classes
        and earlier_facts.sizes["validation"]
    )


def forgetting_metrics(
    earlier_data: Sequence[DataConfig], start: Network, continued: Network, device: torch.device
) -> dict[str, float]:
    """How far ``continued`` falls behind ``start``, from which it was trained, on earlier data.

    Returns:
        ``val_accuracy_before``, the mean accuracy of ``continued`` on the earlier validation
        splits, and ``forgetting``, the mean accuracy of ``start`` minus that; negative for a gain.
        If the earlier data has only some classes, also ``val_task_accuracy_before`` and
        ``task_forgetting``: the same among predictions of these classes (Li and Hoiem 2017).
    """
    scores = [
        [_validation_scores(network, data, device) for data in earlier_data]
        for network in (start, continued)
    ]
    metrics = {}
    for name, difference_name in (("accuracy", "forgetting"), ("task_accuracy", "task_forgetting")):
        start_scores, continued_scores = (
            [scores_of_data[name] for scores_of_data in scores_by_data if name in scores_of_data]
            for scores_by_data in scores
        )
        if continued_scores:
            metrics[f"val_{name}_before"] = sum(continued_scores) / len(continued_scores)
            metrics[difference_name] = (sum(start_scores) - sum(continued_scores)) / len(
                continued_scores
            )
    return metrics


def forgetting_metric_names(earlier_data: Sequence[DataConfig]) -> frozenset[str]:
    """Names of the metrics of :func:`forgetting_metrics`, known before they are measured."""
    names = {"val_accuracy_before", "forgetting"}
    if any(data.classes is not None for data in earlier_data):
        names |= {"val_task_accuracy_before", "task_forgetting"}
    return frozenset(names)


def _validation_scores(
    network: Network, data: DataConfig, device: torch.device
) -> dict[str, float]:
    return evaluate(network, open_data(data), "validation", device=device)
