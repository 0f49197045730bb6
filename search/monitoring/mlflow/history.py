"""Knows which metric points MLflow already has, so that none is sent twice."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Metric

Fetch = Callable[[str], Iterable["Metric"]]
"""All points that MLflow has of one metric of a run."""


@dataclass
class _MetricPoints:
    """The points of one metric of one run; a point is (time in milliseconds, value)."""

    steps: set[int] = field(default_factory=set)
    points: set[tuple[int, str]] = field(default_factory=set)

    def add(self, metric: Metric) -> None:
        self.steps.add(metric.step)
        self.points.add((metric.timestamp, _stored_text(metric.value)))


class MetricHistory:
    """Keeps one point a step for every metric.

    MLflow stores every point it gets, also a second one at the same step. A resumed stage reports
    its earlier epochs again, and a killed driver may have sent points without recording that.
    Therefore the history of each metric is fetched once for every run that this process has not
    created.
    """

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], _MetricPoints] = {}
        self._new_runs: set[str] = set()

    def mark_new(self, run_id: str) -> None:
        """The run is new: it has no points yet."""
        self._new_runs.add(run_id)

    def forget(self, run_id: str) -> None:
        """Fetch the run's points again, since it is uncertain which have arrived."""
        self._new_runs.discard(run_id)
        self._points = {
            run_and_metric: points
            for run_and_metric, points in self._points.items()
            if run_and_metric[0] != run_id
        }

    def new_steps(self, run_id: str, metrics: Iterable[Metric], fetch: Fetch) -> list[Metric]:
        """The metrics at steps without a point; they count as sent from now on."""
        unsent = []
        for metric in metrics:
            points = self._points_of(run_id, metric.key, fetch)
            if metric.step not in points.steps:
                points.add(metric)
                unsent.append(metric)
        return unsent

    def next_steps(self, run_id: str, metrics: Iterable[Metric], fetch: Fetch) -> list[Metric]:
        """The metrics that were not sent yet, each at the next free step.

        This is for metrics without an epoch, whose newest value must be the last point.
        """
        unsent = []
        for metric in metrics:
            points = self._points_of(run_id, metric.key, fetch)
            if (metric.timestamp, _stored_text(metric.value)) not in points.points:
                at_free_step = _at_step(metric, max(points.steps, default=-1) + 1)
                points.add(at_free_step)
                unsent.append(at_free_step)
        return unsent

    def _points_of(self, run_id: str, key: str, fetch: Fetch) -> _MetricPoints:
        if (run_id, key) not in self._points:
            points = self._points[run_id, key] = _MetricPoints()
            if run_id not in self._new_runs:
                for metric in fetch(key):
                    points.add(metric)
        return self._points[run_id, key]


def _at_step(metric: Metric, step: int) -> Metric:
    from mlflow.entities import Metric

    return Metric(metric.key, metric.value, metric.timestamp, step)


def _stored_text(value: float) -> str:
    """A value as MLflow stores it, which replaces infinity by the largest float."""
    if math.isnan(value):
        return "nan"
    largest = sys.float_info.max
    return repr(min(max(float(value), -largest), largest))
