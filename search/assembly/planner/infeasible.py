"""Why no assembly keeps the budgets, and what would have to be granted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stillhouse.search.assembly.planner.budget import Budget, Row, shown
from stillhouse.search.assembly.planner.graph import Graph
from stillhouse.search.assembly.planner.program import cheapest


class Infeasible(ValueError):
    """No assembly keeps the budgets.

    ``nearest`` has, for each budget at fault, the value of that cost nearest to it that can be
    had: by an assembly free of other budgets if the budget cannot be met even alone, else by one
    that keeps all the others (None if even those cannot be met together).
    """

    def __init__(self, message: str, nearest: Mapping[str, float | None]) -> None:
        super().__init__(message)
        self.nearest = dict(nearest)


def explained(graph: Graph, rows: Mapping[str, Row]) -> Infeasible:
    """The error for budgets that no path keeps."""
    alone = {name: near for name, row in rows.items() if (near := _nearest(graph, row, {}))}
    if alone:
        told = "; ".join(_sentence(name, rows[name], near) for name, near in alone.items())
        return Infeasible(told, {name: value for name, (_, value) in alone.items()})
    others = {n: {o: row for o, row in rows.items() if o != n} for n in rows}
    given = {n: _nearest(graph, row, others[n]) for n, row in rows.items()}
    told = "; ".join(
        _sentence(name, rows[name], near, " given the others")
        if near
        else f"{name} ({rows[name].budget}): the others cannot be met together"
        for name, near in given.items()
    )
    nearest = {name: near[1] if near else None for name, near in given.items()}
    return Infeasible(f"each budget can be met alone, but not all together: {told}", nearest)


Nearest = tuple[str, float]
"""In which direction it is the nearest, and the value."""


def _nearest(graph: Graph, row: Row, others: Mapping[str, Row]) -> Nearest | None:
    """The value nearest to a row's budget given other rows; None if it is met or they are not."""
    low, high = row.budget.least, row.budget.most
    kept = list(others.values())
    smallest = _extreme(graph, row, kept, 1)
    if smallest is None or (high is None and low is None):
        return None
    if high is not None and smallest > high:
        return "smallest", smallest
    largest = _extreme(graph, row, kept, -1)
    if low is not None and largest is not None and largest < low:
        return "largest", largest
    if low is None or high is None:
        return None
    above = _extreme(graph, row, [*kept, replace(row, budget=Budget(least=low))], 1)
    return ("smallest from there on", above) if above is not None and above > high else None


def _extreme(graph: Graph, row: Row, rows: list[Row], sign: int) -> float | None:
    path = cheapest(graph, sign * row.values, rows)
    return None if path is None else row.total(path)


def _sentence(name: str, row: Row, nearest: Nearest, given: str = "") -> str:
    word, value = nearest
    spent = f", of which {shown(row.fixed)} is fixed" if row.fixed else ""
    return (
        f"the budget of {name} ({row.budget}) cannot be met: "
        f"its {word} feasible value{given} is {shown(value)}{spent}"
    )
