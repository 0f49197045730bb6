"""Leaving out the edges that no wanted assembly takes, before the integer program is solved.

With multipliers on the budgets, those of the linear relaxation, the lightest path through an edge
bounds from below the score of every assembly that takes it (Lagrangian relaxation); such paths
that happen to keep the budgets bound from above the score of the last assembly wanted.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import scipy

from stillhouse.search.assembly.planner.budget import Row
from stillhouse.search.assembly.planner.graph import Graph, Values
from stillhouse.search.assembly.planner.program import Path, flow

_HARDER = (1.0, 1.02, 1.05, 1.1, 1.2)
"""What the multipliers are multiplied by to find paths that keep the budgets."""
_ROUNDS = 3
"""How often paths are sought that differ by an edge from the best known."""
_TRIED = 1000
"""Edges, those of least bound, through which such paths are sought."""


def wanted(graph: Graph, rows: Sequence[Row], best: int, known: Path | None = None) -> np.ndarray:
    """Which edges may be taken by one of the so many best assemblies; True of all if unknown.

    ``known`` is an assembly that keeps the budgets; others are sought around it.
    """
    everything = np.ones(len(graph.edges), bool)
    limits = [limit for row in rows for limit in _limits(row)]
    found = _multipliers(graph, limits)
    if found is None:
        return everything
    at_least = graph.through(_weights(graph, limits, found)) - sum(
        m * most for m, (_, most) in zip(found, limits, strict=True)
    )
    nearest = np.argsort(at_least)[:_TRIED].tolist()
    paths = {
        path
        for factor in (_HARDER if limits else (1.0,))
        for path in _routes(graph, _weights(graph, limits, factor * found), nearest)
    }
    paths |= set() if known is None else {known}
    for _ in range(_ROUNDS if best > 1 else 1):
        lightest = _lightest_kept(graph, rows, paths, best)
        paths = {*lightest, *(near for path in lightest for near in _beside(graph, path))}
    lightest = _lightest_kept(graph, rows, paths, best)
    if len(lightest) < best:
        return everything
    most = _score(graph, lightest[-1])
    finite = np.abs(at_least[np.isfinite(at_least)]).max()
    room = 1e-9 * (finite + np.abs(graph.scores).max())
    kept: np.ndarray = at_least <= most + room
    return kept


def _score(graph: Graph, path: Path) -> float:
    return math.fsum(graph.scores[list(path)])


def _lightest_kept(
    graph: Graph, rows: Sequence[Row], paths: Iterable[Path], best: int
) -> list[Path]:
    kept = (path for path in paths if all(row.keeps(path) for row in rows))
    return heapq.nsmallest(best, kept, key=lambda path: _score(graph, path))


def _beside(graph: Graph, path: Path) -> Iterator[Path]:
    """The paths that another edge makes, where it runs between two stops of a path."""
    stops = np.full(graph.nodes, -1)
    stops[graph.tails[list(path)]] = np.arange(len(path))
    stops[-1] = len(path)
    between = (stops[graph.tails] >= 0) & (stops[graph.heads] >= 0)
    for edge in np.flatnonzero(between).tolist():
        yield (*path[: stops[graph.tails[edge]]], edge, *path[stops[graph.heads[edge]] :])


Limit = tuple[Values, float]


def _limits(row: Row) -> Iterator[Limit]:
    """Values and the most they may add up to."""
    low, high = row.bounds(0.0)
    if math.isfinite(high):
        yield row.values / row.scale, high / row.scale
    if math.isfinite(low):
        yield -row.values / row.scale, -low / row.scale


def _multipliers(graph: Graph, limits: Sequence[Limit]) -> Values | None:
    """What a unit more of each limit would take off the relaxed score; None if infeasible."""
    if not limits:
        return np.zeros(0)
    matrix, net, _ = flow(graph)
    relaxed = scipy.optimize.linprog(
        graph.scores,
        A_ub=scipy.sparse.csr_array(np.stack([values for values, _ in limits])),
        b_ub=[most for _, most in limits],
        A_eq=matrix,
        b_eq=net,
        bounds=(0, 1),
        method="highs",
    )
    # any multipliers bound; those of a solve that gave up would only bound badly
    return np.maximum(-relaxed.ineqlin.marginals, 0.0) if relaxed.status == 0 else None


def _weights(graph: Graph, limits: Sequence[Limit], multipliers: Values) -> Values:
    spent = [m * values for m, (values, _) in zip(multipliers, limits, strict=True)]
    weights: Values = np.sum([graph.scores, *spent], axis=0)
    return weights


def _routes(graph: Graph, weights: Values, places: Sequence[int]) -> Iterator[Path]:
    """The lightest path through each of some edges."""
    tails, heads, values = graph.tails.tolist(), graph.heads.tolist(), weights.tolist()
    before = _lightest(heads, tails, values, range(len(values)), graph.nodes, 0)
    after = _lightest(tails, heads, values, range(len(values))[::-1], graph.nodes, graph.nodes - 1)
    for place in places:
        path = [place]
        while (edge := before.get(tails[path[0]])) is not None:
            path.insert(0, edge)
        while (edge := after.get(heads[path[-1]])) is not None:
            path.append(edge)
        if tails[path[0]] == 0 and heads[path[-1]] == graph.nodes - 1:
            yield tuple(path)


def _lightest(
    nodes: list[int], others: list[int], values: list[float], order: range, count: int, start: int
) -> dict[int, int]:
    """For every node the edge by which it is reached at least weight from a start."""
    least = [math.inf] * count
    least[start] = 0.0
    by: dict[int, int] = {}
    for edge in order:
        if (weight := least[others[edge]] + values[edge]) < least[nodes[edge]]:
            least[nodes[edge]], by[nodes[edge]] = weight, edge
    return by
