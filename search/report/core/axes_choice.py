"""The two metrics by which pictures compare students: a cost and a quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.search.core.metrics import COST_METRICS
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core.participants import SharedStage, Student
from stillhouse.search.results.statistics import pareto_indices


@dataclass(frozen=True)
class MetricAxes:
    """Two figures, each with its good direction. The cost lies on the horizontal axis."""

    cost: Goal
    quality: Goal

    def point(self, stage: Student | SharedStage) -> tuple[float, float]:
        return stage.metric(self.cost.figure), stage.metric(self.quality.figure)

    def has_both(self, stage: Student | SharedStage) -> bool:
        """Whether both figures are known."""
        return all(map(math.isfinite, self.point(stage)))


def choose_metric_axes(goals: Sequence[Goal]) -> MetricAxes:
    """The first cost and the first quality among the goals; parameters and accuracy otherwise.

    With several qualities and no cost, the second of them takes the place of the cost.
    """
    costs = [goal for goal in goals if goal.figure in COST_METRICS]
    qualities = [goal for goal in goals if goal.figure not in COST_METRICS]
    if len(qualities) > 1 and not costs:
        return MetricAxes(qualities[1], qualities[0])
    cost = costs[0] if costs else Goal("parameters", maximize=False)
    return MetricAxes(cost, qualities[0] if qualities else Goal("val_accuracy", maximize=True))


def pareto_front(students: Sequence[Student], metric_axes: MetricAxes) -> list[Student]:
    """The finished students within all limits that no other student dominates, cheapest first."""
    finished = [s for s in students if s.trial.state == "finished" and s.trial.feasible]
    finished = [s for s in finished if metric_axes.has_both(s)]
    points = [metric_axes.point(s) for s in finished]
    front_indices = pareto_indices(
        points, (metric_axes.cost.maximize, metric_axes.quality.maximize)
    )
    return sorted((finished[i] for i in front_indices), key=metric_axes.point)
