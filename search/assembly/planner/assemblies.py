"""The best assemblies under any number of budgets."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from stillhouse.search.assembly.planner.budget import Budget, BudgetRow
from stillhouse.search.assembly.planner.graph import Edge, Graph, build_graph
from stillhouse.search.assembly.planner.infeasible import explain_infeasible
from stillhouse.search.assembly.planner.narrowing import relevant_edges
from stillhouse.search.assembly.planner.program import EdgePath, NoGoodCut, lightest_path

NO_FIXED_COSTS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Assembly:
    """A path from the source to the sink.

    ``edges`` are indices of the given edges. ``costs`` has every cost that all of them have, with
    the fixed cost. Sums are correctly rounded.
    """

    edges: tuple[int, ...]
    score: float
    costs: Mapping[str, float]


def assemblies(
    edges: Sequence[Edge],
    source: Hashable,
    sink: Hashable,
    budgets: Mapping[str, Budget],
    *,
    fixed_costs: Mapping[str, float] = NO_FIXED_COSTS,
    count: int = 1,
    min_difference: int = 1,
) -> list[Assembly]:
    """The assemblies of least summed score that satisfy all budgets, the best first.

    An integer program over the graph of cuts (after Puzzle, Bercovich et al. 2025, and the second
    phase of LANA, Molchanov et al. 2022) is solved to proved optimality. Every answer is summed
    again exactly and checked.

    Args:
        edges: the neighbourhoods; edges with a score or cost that is not finite are left out.
        source: the node where assemblies start.
        sink: the node where they end.
        budgets: the range of each summed cost.
        fixed_costs: costs of every assembly besides its edges.
        count: the maximum number of assemblies.
        min_difference: the number of edges of each of two assemblies that the other must not have.
            Each assembly is the best that differs so much from all better ones.

    Raises:
        InfeasibleBudgets: no assembly satisfies the budgets.
        DisconnectedGraph: no path leads from source to sink.
        ValueError: edges in a cycle, an edge without a required cost, ``count`` below 1.
        ArithmeticError: the solver failed.
    """
    if count < 1 or min_difference < 1:
        raise ValueError(f"best and apart are 1 or more, found {count} and {min_difference}")
    full_graph = build_graph(edges, source, sink)
    rows_by_cost = budget_rows(full_graph, budgets, fixed_costs)
    rows = list(rows_by_cost.values())
    best_path = _best_path(full_graph, rows)
    if best_path is None:
        raise explain_infeasible(full_graph, rows_by_cost)
    graph, paths = full_graph, [best_path]
    if min_difference == 1:  # else a wanted assembly may use edges that no good assembly uses
        kept_edges = _undominated_edges(graph, rows, count)
        kept_edges[list(best_path)] = True
        graph, rows, best_path = _restrict(graph, rows, best_path, kept_edges)
        graph, rows, best_path = _restrict(
            graph, rows, best_path, relevant_edges(graph, rows, count, best_path)
        )
        paths = [best_path]
    while len(paths) < count:
        no_good_cuts = [NoGoodCut(path, min_difference) for path in paths]
        path = lightest_path(graph, graph.scores, rows, no_good_cuts)
        if path is None:
            break
        paths.append(path)
    # the solver's order is correct only within its tolerance
    return sorted(
        (make_assembly(graph, path, fixed_costs) for path in paths), key=lambda each: each.score
    )


def _best_path(graph: Graph, rows: Sequence[BudgetRow]) -> EdgePath | None:
    """The best path; None if no path satisfies the budgets."""
    kept_edges = _undominated_edges(graph, rows, 1)
    kept_edges[kept_edges] = relevant_edges(
        graph.subset(kept_edges), [row.subset(kept_edges) for row in rows], 1
    )
    kept_graph = graph.subset(kept_edges)
    path = lightest_path(kept_graph, kept_graph.scores, [row.subset(kept_edges) for row in rows])
    return None if path is None else tuple(np.flatnonzero(kept_edges)[list(path)].tolist())


def _restrict(
    graph: Graph, rows: Sequence[BudgetRow], path: EdgePath, kept_edges: np.ndarray
) -> tuple[Graph, list[BudgetRow], EdgePath]:
    """Graph, rows and a path with only ``kept_edges``."""
    new_indices = (np.cumsum(kept_edges) - 1)[list(path)]
    return (
        graph.subset(kept_edges),
        [row.subset(kept_edges) for row in rows],
        tuple(new_indices.tolist()),
    )


def budget_rows(
    graph: Graph, budgets: Mapping[str, Budget], fixed_costs: Mapping[str, float]
) -> dict[str, BudgetRow]:
    """The rows of budgets over a graph's edges."""
    for name, value in fixed_costs.items():
        if not math.isfinite(value):
            raise ValueError(f"what is fixed of {name!r} is not finite: {value}")
    return {
        cost: BudgetRow(graph.cost_values(cost), budgets[cost], fixed_costs.get(cost, 0.0))
        for cost in budgets
    }


def make_assembly(graph: Graph, path: EdgePath, fixed_costs: Mapping[str, float]) -> Assembly:
    """The assembly of a path, with exact sums."""
    edges = [graph.edges[index] for index in path]
    cost_names = [cost for cost in edges[0].costs if all(cost in edge.costs for edge in edges)]
    return Assembly(
        tuple(graph.indices[index] for index in path),
        math.fsum(edge.score for edge in edges),
        {
            cost: math.fsum([fixed_costs.get(cost, 0.0), *(edge.costs[cost] for edge in edges)])
            for cost in cost_names
        },
    )


def _undominated_edges(graph: Graph, rows: Sequence[BudgetRow], count: int) -> np.ndarray:
    """A mask of the edges that one of the ``count`` best assemblies may need.

    An edge is left out if ``count`` parallel edges (between the same nodes) are no worse in the
    score and in every budgeted cost. Each of these gives an assembly that is no worse.
    """
    minimised = np.stack(
        [graph.scores, *(values for row in rows for values in _minimised_values(row))], axis=1
    )
    parallel_edges: dict[tuple[int, int], list[int]] = {}
    for index, nodes in enumerate(zip(graph.tails.tolist(), graph.heads.tolist(), strict=True)):
        parallel_edges.setdefault(nodes, []).append(index)
    kept_edges = np.ones(len(graph.edges), bool)
    for indices in parallel_edges.values():
        own_values = minimised[indices]
        is_better = np.all(own_values[:, None] <= own_values[None, :], axis=2)
        # Of two equal edges, the first counts as better.
        is_earlier = np.triu(np.ones_like(is_better), 1)
        is_better &= ~is_better.T | is_earlier
        kept_edges[indices] = is_better.sum(axis=0) < count
    return kept_edges


def _minimised_values(row: BudgetRow) -> list[np.ndarray]:
    """The values of a row, signed so that smaller satisfies the budget better."""
    bounds = ((row.budget.maximum, row.values), (row.budget.minimum, -row.values))
    return [values for bound, values in bounds if bound is not None]
