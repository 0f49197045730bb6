"""The best assemblies under any number of budgets."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from stillhouse.search.assembly.planner.budget import Budget, Row
from stillhouse.search.assembly.planner.graph import Edge, Graph, graph_of
from stillhouse.search.assembly.planner.infeasible import explained
from stillhouse.search.assembly.planner.narrowing import wanted
from stillhouse.search.assembly.planner.program import Cut, Path, cheapest

NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Assembly:
    """A path from the source to the sink.

    ``edges`` are indices of the edges that were given; ``costs`` has every cost that each of them
    tells, what is fixed included. Sums are correctly rounded.
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
    fixed: Mapping[str, float] = NOTHING,
    best: int = 1,
    apart: int = 1,
) -> list[Assembly]:
    """The assemblies of least summed score that keep all budgets, the best first.

    An integer program over the graph of cuts (after Puzzle, Bercovich et al. 2025, and the second
    phase of LANA, Molchanov et al. 2022), solved to proved optimality; every answer is added up
    again exactly and checked.

    Args:
        edges: the neighbourhoods; those with a score or cost that is not finite are left out.
        source: the node where assemblies start.
        sink: the node where they end.
        budgets: the range of each summed cost.
        fixed: what an assembly costs whatever its edges (stem and head).
        best: how many are wanted; fewer come if there are no more.
        apart: how many edges of each of two assemblies must be missing in the other. Each
            assembly is the best of those that are so far apart from all better ones.

    Raises:
        Infeasible: no assembly keeps the budgets.
        Disconnected: the edges leave a gap between source and sink.
        ValueError: edges in a circle, a cost that an edge does not tell, ``best`` below 1, ...
        ArithmeticError: the solver failed.
    """
    if best < 1 or apart < 1:
        raise ValueError(f"best and apart are 1 or more, found {best} and {apart}")
    whole = graph_of(edges, source, sink)
    every = rows_of(whole, budgets, fixed)
    rows = list(every.values())
    first = _first(whole, rows)
    if first is None:
        raise explained(whole, every)
    graph, found = whole, [first]
    if apart == 1:  # else what is far enough from the others need not be good itself
        kept = _undominated(graph, rows, best)
        kept[list(first)] = True
        graph, rows, first = _subset(graph, rows, first, kept)
        graph, rows, first = _subset(graph, rows, first, wanted(graph, rows, best, first))
        found = [first]
    while len(found) < best:
        cuts = [Cut(path, apart) for path in found]
        path = cheapest(graph, graph.scores, rows, cuts)
        if path is None:
            break
        found.append(path)
    # the solver's order holds within its tolerance
    return sorted((assembly(graph, path, fixed) for path in found), key=lambda each: each.score)


def _first(graph: Graph, rows: Sequence[Row]) -> Path | None:
    """The best path of all."""
    kept = _undominated(graph, rows, 1)
    kept[kept] = wanted(graph.subset(kept), [row.subset(kept) for row in rows], 1)
    narrowed = graph.subset(kept)
    path = cheapest(narrowed, narrowed.scores, [row.subset(kept) for row in rows])
    return None if path is None else tuple(np.flatnonzero(kept)[list(path)].tolist())


def _subset(
    graph: Graph, rows: Sequence[Row], path: Path, kept: np.ndarray
) -> tuple[Graph, list[Row], Path]:
    """Graph, rows and a path in it without the edges that are not kept."""
    places = (np.cumsum(kept) - 1)[list(path)]
    return graph.subset(kept), [row.subset(kept) for row in rows], tuple(places.tolist())


def rows_of(
    graph: Graph, budgets: Mapping[str, Budget], fixed: Mapping[str, float]
) -> dict[str, Row]:
    """The budgets over a graph's edges."""
    for name, value in fixed.items():
        if not math.isfinite(value):
            raise ValueError(f"what is fixed of {name!r} is not finite: {value}")
    return {n: Row(graph.costs(n), budgets[n], fixed.get(n, 0.0)) for n in budgets}


def assembly(graph: Graph, path: Path, fixed: Mapping[str, float]) -> Assembly:
    """A path added up."""
    taken = [graph.edges[place] for place in path]
    told = [n for n in taken[0].costs if all(n in edge.costs for edge in taken)]
    return Assembly(
        tuple(graph.indices[place] for place in path),
        math.fsum(edge.score for edge in taken),
        {n: math.fsum([fixed.get(n, 0.0), *(edge.costs[n] for edge in taken)]) for n in told},
    )


def _undominated(graph: Graph, rows: Sequence[Row], best: int) -> np.ndarray:
    """Which edges may be wanted among so many best: not those with as many better ones beside.

    Beside an edge stand those between the same nodes, and better are those with no larger score
    and no cost that keeps a budget less well. Taken in its place they make as many assemblies
    that are no worse.
    """
    figures = np.stack([graph.scores, *(f for row in rows for f in _reluctant(row))], axis=1)
    beside: dict[tuple[int, int], list[int]] = {}
    for place, ends in enumerate(zip(graph.tails.tolist(), graph.heads.tolist(), strict=True)):
        beside.setdefault(ends, []).append(place)
    kept = np.ones(len(graph.edges), bool)
    for places in beside.values():
        own = figures[places]
        better = np.all(own[:, None] <= own[None, :], axis=2)
        earlier = np.triu(np.ones_like(better), 1)  # of two that are alike, the first is better
        better &= ~better.T | earlier
        kept[places] = better.sum(axis=0) < best
    return kept


def _reluctant(row: Row) -> list[np.ndarray]:
    """The figures that a budget would have small."""
    ends = ((row.budget.most, row.values), (row.budget.least, -row.values))
    return [values for end, values in ends if end is not None]
