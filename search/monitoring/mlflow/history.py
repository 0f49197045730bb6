"""The points that a run's metrics have in MLflow already, so that none is sent twice."""

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
    """What is known of one metric of one run; a point is its time in milliseconds and its value."""

    steps: set[int] = field(default_factory=set)
    points: set[tuple[int, str]] = field(default_factory=set)

    def add(self, metric: Metric) -> None:
        self.steps.add(metric.step)
        self.points.add((metric.timestamp, _stored_text(metric.value)))


class MetricHistory:
    """One point a step for every metric.

    MLflow keeps each point that it is sent, also a second one at the same step. Work that goes on
    after a stop reports its earlier epochs again, and a killed driver may have sent what it could
    not note any more. So MLflow is asked once for each metric of a run that this process has not
    created.
    """

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], _MetricPoints] = {}
        self._new_runs: set[str] = set()

    def mark_new(self, run_id: str) -> None:
        """The run is new: it has no points yet."""
        self._new_runs.add(run_id)

    def forget(self, run_id: str) -> None:
        """It is uncertain what has arrived: ask MLflow again."""
        self._new_runs.discard(run_id)
        self._points = {
            run_and_metric: points
            for run_and_metric, points in self._points.items()
            if run_and_metric[0] != run_id
        }

    def new_steps(self, run_id: str, metrics: Iterable[Metric], fetch: Fetch) -> list[Metric]:
        """Those of ``metrics`` at steps that have no point yet; they count as sent."""
        unsent = []
        for metric in metrics:
            points = self._points_of(run_id, metric.key, fetch)
            if metric.step not in points.steps:
                points.add(metric)
                unsent.append(metric)
        return unsent

    def next_steps(self, run_id: str, metrics: Iterable[Metric], fetch: Fetch) -> list[Metric]:
        """Those of ``metrics`` that were not sent yet, each at the next free step.

        For figures without an epoch: the newest value is to be the last point.
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
    """A value as MLflow stores it: an infinite one becomes the largest number."""
    if math.isnan(value):
        return "nan"
    largest = sys.float_info.max
    return repr(min(max(float(value), -largest), largest))
