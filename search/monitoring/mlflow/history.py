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
class _Points:
    """What is known of one metric of one run; a point is its time in milliseconds and its value."""

    steps: set[int] = field(default_factory=set)
    points: set[tuple[int, str]] = field(default_factory=set)

    def add(self, metric: Metric) -> None:
        self.steps.add(metric.step)
        self.points.add((metric.timestamp, _text(metric.value)))


class MetricHistory:
    """One point a step for every metric.

    MLflow keeps each point that it is sent, also a second one at the same step. Work that goes on
    after a stop reports its earlier epochs again, and a killed driver may have sent what it could
    not note any more. So MLflow is asked once for each metric of a run that this process has not
    created.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Points] = {}
        self._created: set[str] = set()

    def created(self, run_id: str) -> None:
        """The run is new: it has no points yet."""
        self._created.add(run_id)

    def forget(self, run_id: str) -> None:
        """It is uncertain what has arrived: ask MLflow again."""
        self._created.discard(run_id)
        self._known = {place: known for place, known in self._known.items() if place[0] != run_id}

    def new_steps(self, run_id: str, metrics: Iterable[Metric], fetch: Fetch) -> list[Metric]:
        """Those of ``metrics`` at steps that have no point yet; they count as sent."""
        fresh = []
        for metric in metrics:
            known = self._of(run_id, metric.key, fetch)
            if metric.step not in known.steps:
                known.add(metric)
                fresh.append(metric)
        return fresh

    def next_steps(self, run_id: str, metrics: Iterable[Metric], fetch: Fetch) -> list[Metric]:
        """Those of ``metrics`` that were not sent yet, each at the next free step.

        For figures without an epoch: the newest value is to be the last point.
        """
        fresh = []
        for metric in metrics:
            known = self._of(run_id, metric.key, fetch)
            if (metric.timestamp, _text(metric.value)) not in known.points:
                moved = _at_step(metric, max(known.steps, default=-1) + 1)
                known.add(moved)
                fresh.append(moved)
        return fresh

    def _of(self, run_id: str, key: str, fetch: Fetch) -> _Points:
        if (run_id, key) not in self._known:
            known = self._known[run_id, key] = _Points()
            if run_id not in self._created:
                for metric in fetch(key):
                    known.add(metric)
        return self._known[run_id, key]


def _at_step(metric: Metric, step: int) -> Metric:
    from mlflow.entities import Metric

    return Metric(metric.key, metric.value, metric.timestamp, step)


def _text(value: float) -> str:
    """A value as MLflow stores it: an infinite one becomes the largest number."""
    if math.isnan(value):
        return "nan"
    largest = sys.float_info.max
    return repr(min(max(float(value), -largest), largest))
