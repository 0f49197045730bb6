"""Budgets on what an assembly costs, and the rows of a program that they make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillhouse.search.assembly.planner.graph import Graph, Values


@dataclass(frozen=True)
class Budget:
    """The range that a summed cost must lie in; both ends are allowed, None is no end.

    Raises:
        ValueError: an end is not a number, or the range is empty.
    """

    most: float | None = None
    least: float | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.highest) or math.isnan(self.lowest) or self.lowest > self.highest:
            raise ValueError(f"no value lies within the budget: {self}")

    @property
    def highest(self) -> float:
        """The upper end, infinite if there is none."""
        return math.inf if self.most is None else self.most

    @property
    def lowest(self) -> float:
        """The lower end, minus infinity if there is none."""
        return -math.inf if self.least is None else self.least

    def keeps(self, value: float) -> bool:
        """Whether a value lies within."""
        return self.lowest <= value <= self.highest

    def __str__(self) -> str:
        ends = (("at least", self.least), ("at most", self.most))
        return ", ".join(f"{word} {shown(end)}" for word, end in ends if end is not None) or "any"


def shown(value: float) -> str:
    """A value to its last digit: who asks for a feasible value just told must be granted it."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))


@dataclass(frozen=True)
class Row:
    """A budget on the values of a graph's edges plus what is spent anyway."""

    values: Values
    budget: Budget
    fixed: float = 0.0

    def total(self, path: Sequence[int]) -> float:
        """The sum over a path, correctly rounded."""
        return math.fsum([self.fixed, *self.values[list(path)]])

    def keeps(self, path: Sequence[int]) -> bool:
        """Whether a path keeps the budget, exactly."""
        return self.budget.keeps(self.total(path))

    def subset(self, kept: np.ndarray) -> Row:
        """The row without some edges."""
        return Row(self.values[kept], self.budget, self.fixed)

    @property
    def scale(self) -> float:
        """What the solver's tolerance is relative to."""
        return max(float(np.abs(self.values).max(initial=0.0)), math.ulp(1.0))

    def bounds(self, tightened: float) -> tuple[float, float]:
        """The ends for the values alone, drawn in by a part of the scale.

        Whole numbers get half a one of room on both sides, so that a solver's tolerance can
        neither let in a sum beyond the end nor keep out the end itself.
        """
        low, high = self.budget.lowest - self.fixed, self.budget.highest - self.fixed
        if self._whole():
            low = math.ceil(low) - 0.5 if math.isfinite(low) else low
            high = math.floor(high) + 0.5 if math.isfinite(high) else high
        return low + tightened * self.scale, high - tightened * self.scale

    def _whole(self) -> bool:
        return float(self.fixed).is_integer() and bool(np.all(self.values % 1 == 0))

    def possible(self, graph: Graph) -> np.ndarray:
        """Which edges lie on a path whose sum keeps the budget, whatever the other budgets."""
        room = 1e-9 * self.scale * graph.nodes  # sums of floats are not exact
        low, high = self.bounds(0.0)
        kept = np.ones(len(self.values), bool)
        if math.isfinite(high):
            kept &= graph.through(self.values) <= high + room
        if math.isfinite(low):
            kept &= -graph.through(-self.values) >= low - room
        return kept
