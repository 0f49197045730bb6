"""Removes edges that none of the best assemblies takes, before the integer program is solved.

The budgets get the multipliers of the linear relaxation. The lightest path through an edge is then
a lower bound on the score of every assembly through it (Lagrangian relaxation). Those paths that
satisfy the budgets give an upper bound on the score of the last of the best assemblies.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy

from stillhouse.search.assembly.planner.budget import BudgetRow
from stillhouse.search.assembly.planner.graph import FloatArray, Graph
from stillhouse.search.assembly.planner.program import EdgePath, flow_constraints

_MULTIPLIER_FACTORS = (1.0, 1.02, 1.05, 1.1, 1.2)
"""Factors of the multipliers for which paths that satisfy the budgets are searched."""
_LOCAL_SEARCH_ROUNDS = 3
"""Rounds in which paths that differ in one edge from the best known paths are tried."""
_MAX_SEED_EDGES = 1000
"""The number of edges, those of least bound, through which such paths are searched."""


def relevant_edges(
    graph: Graph, rows: Sequence[BudgetRow], count: int, known_path: EdgePath | None = None
) -> np.ndarray:
    """A mask of the edges that the ``count`` best assemblies may take; all True if unknown.

    ``known_path`` is an assembly that satisfies the budgets; the search for others starts there.
    """
    all_edges = np.ones(len(graph.edges), bool)
    upper_bounds = [upper_bound for row in rows for upper_bound in _upper_bounds(row)]
    multipliers = _lagrange_multipliers(graph, upper_bounds)
    if multipliers is None:
        return all_edges
    lower_bounds = graph.distance_through(
        _lagrangian_weights(graph, upper_bounds, multipliers)
    ) - sum(
        multiplier * bound for multiplier, (_, bound) in zip(multipliers, upper_bounds, strict=True)
    )
    seed_edges = np.argsort(lower_bounds)[:_MAX_SEED_EDGES].tolist()
    paths = {
        path
        for factor in (_MULTIPLIER_FACTORS if upper_bounds else (1.0,))
        for path in _lightest_paths_through(
            graph, _lagrangian_weights(graph, upper_bounds, factor * multipliers), seed_edges
        )
    }
    paths |= set() if known_path is None else {known_path}
    for _ in range(_LOCAL_SEARCH_ROUNDS if count > 1 else 1):
        best_paths = _best_feasible_paths(graph, rows, paths, count)
        paths = {
            *best_paths,
            *(neighbour for path in best_paths for neighbour in _detour_paths(graph, path)),
        }
    best_paths = _best_feasible_paths(graph, rows, paths, count)
    if len(best_paths) < count:
        return all_edges
    bound = graph.score(best_paths[-1])
    largest_bound = np.abs(lower_bounds[np.isfinite(lower_bounds)]).max()
    tolerance = 1e-9 * (largest_bound + np.abs(graph.scores).max())
    relevant: np.ndarray = lower_bounds <= bound + tolerance
    return relevant


def _best_feasible_paths(
    graph: Graph, rows: Sequence[BudgetRow], paths: Iterable[EdgePath], count: int
) -> list[EdgePath]:
    feasible = (path for path in paths if all(row.is_kept_by(path) for row in rows))
    return heapq.nsmallest(count, feasible, key=graph.score)


def _detour_paths(graph: Graph, path: EdgePath) -> Iterator[EdgePath]:
    """The paths that take another edge between two nodes of ``path``."""
    position_on_path = np.full(graph.num_nodes, -1)
    position_on_path[graph.tails[list(path)]] = np.arange(len(path))
    position_on_path[-1] = len(path)
    is_between = (position_on_path[graph.tails] >= 0) & (position_on_path[graph.heads] >= 0)
    for edge in np.flatnonzero(is_between).tolist():
        yield (
            *path[: position_on_path[graph.tails[edge]]],
            edge,
            *path[position_on_path[graph.heads[edge]] :],
        )


UpperBound = tuple[FloatArray, float]


def _upper_bounds(row: BudgetRow) -> Iterator[UpperBound]:
    """The limits of a row as values and the maximum of their sum."""
    low, high = row.bounds(0.0)
    if math.isfinite(high):
        yield row.values / row.scale, high / row.scale
    if math.isfinite(low):
        yield -row.values / row.scale, -low / row.scale


def _lagrange_multipliers(graph: Graph, upper_bounds: Sequence[UpperBound]) -> FloatArray | None:
    """The decrease of the relaxed score for one more unit of each limit; None if infeasible."""
    if not upper_bounds:
        return np.zeros(0)
    matrix, net_flow, _ = flow_constraints(graph)
    relaxation = scipy.optimize.linprog(
        graph.scores,
        A_ub=scipy.sparse.csr_array(np.stack([values for values, _ in upper_bounds])),
        b_ub=[bound for _, bound in upper_bounds],
        A_eq=matrix,
        b_eq=net_flow,
        bounds=(0, 1),
        method="highs",
    )
    # any multipliers give a bound; those of an unfinished solve would give a bad one
    return np.maximum(-relaxation.ineqlin.marginals, 0.0) if relaxation.status == 0 else None


def _lagrangian_weights(
    graph: Graph, upper_bounds: Sequence[UpperBound], multipliers: FloatArray
) -> FloatArray:
    penalties = [
        multiplier * values
        for multiplier, (values, _) in zip(multipliers, upper_bounds, strict=True)
    ]
    weights: FloatArray = np.sum([graph.scores, *penalties], axis=0)
    return weights


def _lightest_paths_through(
    graph: Graph, weights: FloatArray, edges: Sequence[int]
) -> Iterator[EdgePath]:
    """The lightest path through each of ``edges``."""
    tails, heads, values = graph.tails.tolist(), graph.heads.tolist(), weights.tolist()
    edge_from_source = _shortest_path_tree(
        heads, tails, values, range(len(values)), graph.num_nodes, 0
    )
    edge_to_sink = _shortest_path_tree(
        tails, heads, values, range(len(values))[::-1], graph.num_nodes, graph.num_nodes - 1
    )
    for middle_edge in edges:
        path = [middle_edge]
        while (edge := edge_from_source.get(tails[path[0]])) is not None:
            path.insert(0, edge)
        while (edge := edge_to_sink.get(heads[path[-1]])) is not None:
            path.append(edge)
        if tails[path[0]] == 0 and heads[path[-1]] == graph.num_nodes - 1:
            yield tuple(path)


def _shortest_path_tree(
    nodes: list[int],
    other_nodes: list[int],
    values: list[float],
    order: range,
    num_nodes: int,
    start: int,
) -> dict[int, int]:
    """Node -> last edge of its lightest path from ``start``."""
    distances = [math.inf] * num_nodes
    distances[start] = 0.0
    edge_to: dict[int, int] = {}
    for edge in order:
        if (weight := distances[other_nodes[edge]] + values[edge]) < distances[nodes[edge]]:
            distances[nodes[edge]], edge_to[nodes[edge]] = weight, edge
    return edge_to
