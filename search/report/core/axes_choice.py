"""The plane in which students are compared: what they cost against how good they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core.participants import Shared, Student
from stillhouse.search.results.statistics import pareto

COSTS = ("parameters", "flops", "bytes", "latency_ms")
"""Figures of what a student costs: small is good."""


@dataclass(frozen=True)
class Plane:
    """Two figures, each with its good direction. The cost lies on the horizontal axis."""

    cost: Goal
    quality: Goal

    def place(self, one: Student | Shared) -> tuple[float, float]:
        return one.figure(self.cost.figure), one.figure(self.quality.figure)

    def holds(self, one: Student | Shared) -> bool:
        """Whether both figures are known."""
        return all(map(math.isfinite, self.place(one)))


def plane(goals: Sequence[Goal]) -> Plane:
    """The first cost and the first quality among the goals; parameters and accuracy otherwise.

    With several qualities and no cost, the second of them takes the place of the cost.
    """
    costs = [goal for goal in goals if goal.figure in COSTS]
    qualities = [goal for goal in goals if goal.figure not in COSTS]
    if len(qualities) > 1 and not costs:
        return Plane(qualities[1], qualities[0])
    cost = costs[0] if costs else Goal("parameters", maximize=False)
    return Plane(cost, qualities[0] if qualities else Goal("val_accuracy", maximize=True))


def front(students: Sequence[Student], plane: Plane) -> list[Student]:
    """The finished students within all limits that none beats in both figures, cheapest first."""
    able = [s for s in students if s.trial.state == "finished" and s.trial.feasible]
    able = [s for s in able if plane.holds(s)]
    points = [plane.place(s) for s in able]
    kept = pareto(points, (plane.cost.maximize, plane.quality.maximize))
    return sorted((able[i] for i in kept), key=plane.place)
