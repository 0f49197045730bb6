"""Budgets on summed costs, and their rows in the integer program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillhouse.search.assembly.planner.graph import FloatArray, Graph


@dataclass(frozen=True)
class Budget:
    """The range of a summed cost, ends included; None means no limit.

    Raises:
        ValueError: a limit is NaN, or the range is empty.
    """

    maximum: float | None = None
    minimum: float | None = None

    def __post_init__(self) -> None:
        if (
            math.isnan(self.upper_bound)
            or math.isnan(self.lower_bound)
            or self.lower_bound > self.upper_bound
        ):
            raise ValueError(f"no value lies within the budget: {self}")

    @property
    def upper_bound(self) -> float:
        """The maximum, infinite if there is none."""
        return math.inf if self.maximum is None else self.maximum

    @property
    def lower_bound(self) -> float:
        """The minimum, minus infinity if there is none."""
        return -math.inf if self.minimum is None else self.minimum

    def contains(self, value: float) -> bool:
        """Whether a value lies in the range."""
        return self.lower_bound <= value <= self.upper_bound

    def __str__(self) -> str:
        bounds = (("at least", self.minimum), ("at most", self.maximum))
        return (
            ", ".join(
                f"{phrase} {format_exact(bound)}" for phrase, bound in bounds if bound is not None
            )
            or "any"
        )


def format_exact(value: float) -> str:
    """A value with all digits, so that a budget of exactly this value is feasible."""
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(float(value))


@dataclass(frozen=True)
class BudgetRow:
    """A budget on the summed values of a path's edges plus a fixed cost."""

    values: FloatArray
    budget: Budget
    fixed_cost: float = 0.0

    def total(self, path: Sequence[int]) -> float:
        """The sum over a path, correctly rounded."""
        return math.fsum([self.fixed_cost, *self.values[list(path)]])

    def is_kept_by(self, path: Sequence[int]) -> bool:
        """Whether the exact sum of a path satisfies the budget."""
        return self.budget.contains(self.total(path))

    def subset(self, kept_edges: np.ndarray) -> BudgetRow:
        """The row with only ``kept_edges``."""
        return BudgetRow(self.values[kept_edges], self.budget, self.fixed_cost)

    @property
    def scale(self) -> float:
        """The largest absolute value, to which the solver's tolerance is relative."""
        return max(float(np.abs(self.values).max(initial=0.0)), math.ulp(1.0))

    def bounds(self, tightening: float) -> tuple[float, float]:
        """The limits of the summed values, tightened by a share of the scale.

        Limits of integers are widened by 0.5. So the solver's tolerance can neither accept a sum
        beyond the limit nor reject the limit itself.
        """
        low, high = (
            self.budget.lower_bound - self.fixed_cost,
            self.budget.upper_bound - self.fixed_cost,
        )
        if self._is_integral():
            low = math.ceil(low) - 0.5 if math.isfinite(low) else low
            high = math.floor(high) + 0.5 if math.isfinite(high) else high
        return low + tightening * self.scale, high - tightening * self.scale

    def _is_integral(self) -> bool:
        return float(self.fixed_cost).is_integer() and bool(np.all(self.values % 1 == 0))

    def feasible_edges(self, graph: Graph) -> np.ndarray:
        """A mask of the edges on a path that satisfies this budget, regardless of other budgets."""
        tolerance = 1e-9 * self.scale * graph.num_nodes  # sums of floats are not exact
        low, high = self.bounds(0.0)
        feasible = np.ones(len(self.values), bool)
        if math.isfinite(high):
            feasible &= graph.distance_through(self.values) <= high + tolerance
        if math.isfinite(low):
            feasible &= -graph.distance_through(-self.values) >= low - tolerance
        return feasible
