"""The registry of metrics: a new metric is added only here.

Operations compute a metric under its name. Goals, checks, pictures, tables and MLflow read its
label, its unit and when it is known from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["", "%", "ms"]
KnownFrom = Literal["network", "planning", "training", "device"]
"""When a metric is known: before training, from planning, after training, or timed on a device."""
Requirement = Literal["validation", "teacher", "subclasses", "merge", "classes", "earlier data"]
"""What an experiment must have so that its students get the metric."""

_SHARE_SUFFIXES = ("accuracy", "agreement", "recovery", "majority", "usage", "before", "forgetting")
_MERGED: tuple[Requirement, ...] = ("subclasses", "merge")


@dataclass(frozen=True)
class Metric:
    """One metric; the unit ``%`` marks a share of examples, stored in 0..1."""

    name: str
    label: str
    unit: Unit = ""
    maximize: bool = False
    known_from: KnownFrom = "training"
    requires: tuple[Requirement, ...] = ()
    can_be_goal: bool = True

    @property
    def is_share(self) -> bool:
        """Whether it is a share of examples."""
        return self.unit == "%"


def _cost(name: str, label: str, known_from: KnownFrom = "network") -> Metric:
    return Metric(name, label, "ms" if known_from == "device" else "", known_from=known_from)


def _share(name: str, label: str, *requires: Requirement) -> Metric:
    return Metric(name, label, "%", maximize=True, requires=("validation", *requires))


def _loss(name: str, label: str, *requires: Requirement) -> Metric:
    return Metric(name, label, requires=requires)


def _internal(name: str, label: str, unit: Unit = "", known_from: KnownFrom = "training") -> Metric:
    return Metric(name, label, unit, known_from=known_from, can_be_goal=False)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _cost("parameters", "parameters"),
        _cost("flops", "FLOPs an image"),
        _cost("bytes", "bytes"),
        _share("val_accuracy", "validation accuracy"),
        _loss("val_nll", "validation negative log-likelihood", "validation"),
        _loss("val_ece", "validation calibration error", "validation"),
        _share("val_agreement", "agreement with the teacher", "teacher"),
        _share(
            "val_subclass_recovery",
            "hidden classes found, one subclass each",
            "subclasses",
            "merge",
        ),
        _share("val_subclass_majority", "hidden classes found, by majority", "subclasses", "merge"),
        _share("val_subclass_usage", "evenness of the subclasses' use", "subclasses"),
        _share("val_task_accuracy", "validation accuracy among the task's classes", "classes"),
        _share("val_accuracy_before", "validation accuracy on the data before", "earlier data"),
        _share(
            "val_task_accuracy_before",
            "validation accuracy on the data before, among its classes",
            "earlier data",
        ),
        Metric("forgetting", "forgetting", "%", requires=("earlier data",)),
        Metric("task_forgetting", "task forgetting", "%", requires=("earlier data",)),
        _share("best_val_accuracy", "best validation accuracy"),
        _loss("train_loss", "train loss"),
        Metric("nonzero", "nonzero"),
        _cost("latency_ms", "latency", "device"),
        _internal("latency_spread_ms", "spread of the latency", "ms", "device"),
        _internal("planned_score", "predicted score", known_from="planning"),
        _internal("planned_loss", "planned loss", known_from="planning"),
        _internal("planned_latency_ms", "predicted latency", "ms", "planning"),
        _internal("summed_latency_ms", "added-up latency", "ms", "planning"),
        _internal("nmse", "nmse"),
        _internal("kl", "kl"),
        _internal("accuracy_drop", "accuracy drop"),
    )
}
"""Name -> metric. Messages list the metrics in this order."""


def _names(metrics: Iterable[Metric]) -> tuple[str, ...]:
    return tuple(metric.name for metric in metrics)


GOAL_METRICS = _names(metric for metric in METRICS.values() if metric.can_be_goal)
"""Metrics that goals and limits can name."""
NETWORK_METRICS = _names(m for m in METRICS.values() if m.known_from == "network")
"""Costs known before a network is trained."""
DEVICE_METRICS = _names(m for m in METRICS.values() if m.known_from == "device")
"""Metrics that are timed on a device; another device gives other values."""
COST_METRICS = tuple(name for name in (*NETWORK_METRICS, *DEVICE_METRICS) if name in GOAL_METRICS)
"""Costs of a student: budgets, cost axes and MLflow tags use them."""
LATENCY_METRIC = "latency_ms"


def find_metric(name: str) -> Metric:
    """The metric of a name; derived names (``screen_val_accuracy``) get their unit by suffix."""
    if name in METRICS:
        return METRICS[name]
    is_share = name.endswith(_SHARE_SUFFIXES)
    unit: Unit = "%" if is_share else "ms" if name.endswith("_ms") else ""
    return Metric(name, name.replace("_", " "), unit, maximize=is_share, can_be_goal=False)
