"""The diagnosis of infeasible budgets, with the nearest feasible values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stillhouse.search.assembly.planner.budget import Budget, BudgetRow, format_exact
from stillhouse.search.assembly.planner.graph import Graph
from stillhouse.search.assembly.planner.program import lightest_path


class InfeasibleBudgets(ValueError):
    """No assembly satisfies the budgets.

    ``nearest`` has the nearest feasible value for each budget at fault. If some budgets cannot be
    met even alone, it has only these. Else the value is that of an assembly that satisfies all
    other budgets, and None if these cannot be met together.
    """

    def __init__(self, message: str, nearest: Mapping[str, float | None]) -> None:
        super().__init__(message)
        self.nearest = dict(nearest)


def explain_infeasible(graph: Graph, rows: Mapping[str, BudgetRow]) -> InfeasibleBudgets:
    """The error for budgets that no path satisfies."""
    unmet_alone = {
        name: nearest_value
        for name, row in rows.items()
        if (nearest_value := _nearest_value(graph, row, {}))
    }
    if unmet_alone:
        message = "; ".join(
            _budget_sentence(name, rows[name], nearest_value)
            for name, nearest_value in unmet_alone.items()
        )
        return InfeasibleBudgets(message, {name: value for name, (_, value) in unmet_alone.items()})
    other_rows = {
        cost: {other: row for other, row in rows.items() if other != cost} for cost in rows
    }
    nearest_given_others = {
        cost: _nearest_value(graph, row, other_rows[cost]) for cost, row in rows.items()
    }
    message = "; ".join(
        _budget_sentence(name, rows[name], nearest_value, " given the others")
        if nearest_value
        else f"{name} ({rows[name].budget}): the others cannot be met together"
        for name, nearest_value in nearest_given_others.items()
    )
    nearest = {
        name: nearest_value[1] if nearest_value else None
        for name, nearest_value in nearest_given_others.items()
    }
    return InfeasibleBudgets(
        f"each budget can be met alone, but not all together: {message}", nearest
    )


NearestValue = tuple[str, float]
"""In which direction it is the nearest, and the value."""


def _nearest_value(
    graph: Graph, row: BudgetRow, others: Mapping[str, BudgetRow]
) -> NearestValue | None:
    """The value nearest to a row's budget given other rows; None if it is met or they are not."""
    minimum, maximum = row.budget.minimum, row.budget.maximum
    other_rows = list(others.values())
    smallest = _extreme_total(graph, row, other_rows, 1)
    if smallest is None or (maximum is None and minimum is None):
        return None
    if maximum is not None and smallest > maximum:
        return "smallest", smallest
    largest = _extreme_total(graph, row, other_rows, -1)
    if minimum is not None and largest is not None and largest < minimum:
        return "largest", largest
    if minimum is None or maximum is None:
        return None
    above = _extreme_total(
        graph, row, [*other_rows, replace(row, budget=Budget(minimum=minimum))], 1
    )
    return ("smallest from there on", above) if above is not None and above > maximum else None


def _extreme_total(graph: Graph, row: BudgetRow, rows: list[BudgetRow], sign: int) -> float | None:
    path = lightest_path(graph, sign * row.values, rows)
    return None if path is None else row.total(path)


def _budget_sentence(name: str, row: BudgetRow, nearest: NearestValue, condition: str = "") -> str:
    direction, value = nearest
    fixed_text = f", of which {format_exact(row.fixed_cost)} is fixed" if row.fixed_cost else ""
    return (
        f"the budget of {name} ({row.budget}) cannot be met: "
        f"its {direction} feasible value{condition} is {format_exact(value)}{fixed_text}"
    )
