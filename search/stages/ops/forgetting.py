"""Forgetting: what a network that goes on learning on other data still knows of the earlier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.evaluation import evaluate
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.base import fingerprint
from stillhouse.spaces.modules.network import Network


def learnt_before(start: Stage, data: DataConfig) -> tuple[DataConfig, ...]:
    """The data that ``start``, and what it went on from, learnt from; latest first.

    Left out is what is judged by the same validation split as ``data`` or as a later one, and
    what such a network cannot be asked about: images of another shape, other classes, no split.
    """
    found = {fingerprint(data.judged_on()): data}
    for earlier in _learnt(start):
        found.setdefault(fingerprint(earlier.judged_on()), earlier)
    about = facts(data)
    return tuple(
        each
        for each in list(found.values())[1:]
        if (known := facts(each)).shape == about.shape
        and known.classes == about.classes
        and known.sizes["validation"]
    )


def _learnt(stage: Stage) -> Iterator[DataConfig]:
    yield stage.data
    while stage.work.goes_on:
        stage = stage.parents[0]
        yield stage.data


def forgotten(
    before: Sequence[DataConfig], start: Network, result: Network, device: torch.device
) -> dict[str, float]:
    """How far ``result`` falls behind ``start``, which it went on from, on earlier data.

    Returns:
        ``val_accuracy_before``, on the earlier validation splits, averaged over them, and
        ``forgetting``: the start's accuracy there less that, negative where it has even gained.
        Where the earlier data has some classes only, ``val_task_accuracy_before`` and
        ``task_forgetting``: the same among the answers that are classes of that data (Li and Hoiem
        2017 measure so, with a head for each task).
    """
    scores = [[_scores(network, data, device) for data in before] for network in (start, result)]
    found = {}
    for name, told in (("accuracy", "forgetting"), ("task_accuracy", "task_forgetting")):
        then, now = ([each[name] for each in some if name in each] for some in scores)
        if now:
            found[f"val_{name}_before"] = sum(now) / len(now)
            found[told] = (sum(then) - sum(now)) / len(now)
    return found


def forgetting_names(before: Sequence[DataConfig]) -> frozenset[str]:
    """Names of the figures of :func:`forgotten`, known before anything is measured."""
    found = {"val_accuracy_before", "forgetting"}
    if any(data.classes is not None for data in before):
        found |= {"val_task_accuracy_before", "task_forgetting"}
    return frozenset(found)


def _scores(network: Network, data: DataConfig, device: torch.device) -> dict[str, float]:
    return evaluate(network, open_data(data), "validation", device=device)
