"""The Pareto front of score against one cost."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from stillhouse.search.assembly.planner.assemblies import (
    NO_FIXED_COSTS,
    Assembly,
    budget_rows,
    make_assembly,
)
from stillhouse.search.assembly.planner.budget import Budget, BudgetRow
from stillhouse.search.assembly.planner.graph import Edge, Graph, build_graph
from stillhouse.search.assembly.planner.infeasible import explain_infeasible
from stillhouse.search.assembly.planner.program import EdgePath, lightest_path

_NO_BUDGETS: Mapping[str, Budget] = MappingProxyType({})
_RESOLUTION = 1e-6
"""Share of the range of costs within which two assemblies count as equal in cost."""
_SOLVER_RESOLUTION = 1e-8
"""Share of the largest edge cost that the solver can distinguish."""


def pareto_front(
    edges: Sequence[Edge],
    source: Hashable,
    sink: Hashable,
    cost: str,
    budgets: Mapping[str, Budget] = _NO_BUDGETS,
    *,
    fixed_costs: Mapping[str, float] = NO_FIXED_COSTS,
    points: int = 8,
) -> list[Assembly]:
    """The Pareto front of the score and one cost, the best score first.

    The epsilon constraint method starts with the best and the cheapest assembly. It then halves
    the widest unexplored range of the cost repeatedly, so that the points spread over the range.
    A front of at most ``points`` assemblies is complete, except for assemblies within a millionth
    of the range of another.

    Arguments and errors are those of ``assemblies``. ``cost`` is the name of the cost, which may
    also have a budget; ``points`` is the maximum number of assemblies.
    """
    if points < 1:
        raise ValueError(f"a front has 1 or more points, found {points}")
    graph = build_graph(edges, source, sink)
    rows = budget_rows(graph, {cost: Budget(), **budgets}, fixed_costs)
    search = _FrontSearch(graph, rows.pop(cost), tuple(rows.values()))
    best_path = search.best_path_up_to(math.inf)
    if best_path is None:
        raise explain_infeasible(graph, budget_rows(graph, budgets, fixed_costs))
    return [
        make_assembly(graph, path, fixed_costs) for path in search.spread_paths(best_path, points)
    ]


@dataclass(frozen=True)
class _Gap:
    """A range of costs between two assemblies of the front that is not explored yet.

    ``is_upper_half``: the lower half is empty, so the rest is solved without halving.
    """

    start: float
    end: float
    is_upper_half: bool = False


@dataclass(frozen=True)
class _FrontSearch:
    """Searches the front by solving for the best score up to a cost."""

    graph: Graph
    cost_row: BudgetRow
    other_rows: tuple[BudgetRow, ...]

    def best_path_up_to(self, max_cost: float) -> EdgePath | None:
        """The cheapest path of the best score up to a cost; None if there is no path."""
        cost_limit = min(max_cost, self.cost_row.budget.upper_bound)
        if cost_limit < self.cost_row.budget.lower_bound:
            return None
        rows = [
            *self.other_rows,
            replace(self.cost_row, budget=replace(self.cost_row.budget, maximum=cost_limit)),
        ]
        path = lightest_path(self.graph, self.graph.scores, rows)
        if path is None:
            return None
        score_row = BudgetRow(self.graph.scores, Budget(maximum=self.graph.score(path)))
        # scores within the solver's tolerance may make it miss even the known path
        return lightest_path(self.graph, self.cost_row.values, [*rows, score_row]) or path

    def spread_paths(self, best_path: EdgePath, points: int) -> list[EdgePath]:
        """Paths of the front from the best score downwards in cost."""
        cheapest_path = lightest_path(
            self.graph, self.cost_row.values, [*self.other_rows, self.cost_row]
        )
        assert cheapest_path is not None, "the best path is one"
        cheapest_path = self.best_path_up_to(self.cost_row.total(cheapest_path)) or cheapest_path
        high_cost, low_cost = self.cost_row.total(best_path), self.cost_row.total(cheapest_path)
        paths_by_cost = (
            {high_cost: best_path, low_cost: cheapest_path}
            if points > 1
            else {high_cost: best_path}
        )
        min_gap = max(
            _RESOLUTION * (high_cost - low_cost), _SOLVER_RESOLUTION * self.cost_row.scale
        )
        gaps = [_Gap(low_cost, high_cost)]
        while gaps and len(paths_by_cost) < points:
            gap = max(gaps, key=lambda gap: gap.end - gap.start)
            gaps.remove(gap)
            if gap.end - gap.start > min_gap:
                gaps += self._explore(gap, min_gap, paths_by_cost)
        return self._pareto_paths(paths_by_cost)

    def _explore(
        self, gap: _Gap, min_gap: float, paths_by_cost: dict[float, EdgePath]
    ) -> list[_Gap]:
        """The remaining gaps of ``gap``; a path inside it is added to ``paths_by_cost``."""
        middle = (gap.start + gap.end) / 2
        path = self.best_path_up_to(gap.end - min_gap if gap.is_upper_half else middle)
        value = self.cost_row.total(path) if path else gap.start
        if path is None or value <= gap.start:
            return [] if gap.is_upper_half else [_Gap(middle, gap.end, is_upper_half=True)]
        paths_by_cost[value] = path
        return [_Gap(gap.start, value)] + ([] if gap.is_upper_half else [_Gap(middle, gap.end)])

    def _pareto_paths(self, paths_by_cost: Mapping[float, EdgePath]) -> list[EdgePath]:
        """The paths that no other dominates; solver tolerances can produce dominated ones."""
        pareto: list[EdgePath] = []
        for _, path in sorted(paths_by_cost.items()):
            if not pareto or self.graph.score(path) < self.graph.score(pareto[-1]):
                pareto.append(path)
        return pareto[::-1]
