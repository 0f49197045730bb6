"""The path of least weight under budgets, as an integer program solved by HiGHS."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts when they are first used: a second, which only a plan need wait for

from stillhouse.search.assembly.planner.budget import Row
from stillhouse.search.assembly.planner.graph import Graph, Values

Path = tuple[int, ...]

_TOLERANCE = 1e-9
_TIGHTENED = (0.0, 1e-8, 1e-7, 1e-6)
"""Parts of a row's scale by which budgets are drawn in when the solver's answers overstep them."""
_CUT_OFF = 8
"""Paths that overstep a budget by less than the tolerance and are cut off one by one before that:
nothing is lost so long as they are few."""
_OPTIMAL, _INFEASIBLE = 0, 2
_OPTIONS = {
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    "mip_feasibility_tolerance": _TOLERANCE,
    "primal_feasibility_tolerance": _TOLERANCE,
    "dual_feasibility_tolerance": 1e-10,  # the least; scores differ by orders of magnitude
}


@dataclass(frozen=True)
class Cut:
    """A path that answers must differ from: at least ``apart`` edges of each are not the other's.

    Paths cannot contain one another, so that being another path is being 1 apart.
    """

    path: Path
    apart: int = 1


def cheapest(
    graph: Graph, weights: Values, rows: Sequence[Row], cuts: Sequence[Cut] = ()
) -> Path | None:
    """The path of least weight that keeps every row exactly and every cut; None if there is none.

    Args:
        graph: the edges.
        weights: what is minimised, one value an edge.
        rows: the budgets.
        cuts: paths to keep away from.

    Returns:
        Places in ``graph.edges``, from source to sink. Optimal within 1e-9 of the median weight,
        and, where more than a few paths overstep a budget by less than the solver can tell, among
        those that stay a hundred-millionth of the largest edge's cost below it.

    Raises:
        ArithmeticError: the solver gave up, or answered with what is not an answer.
    """
    away = list(cuts)
    for tightened in _TIGHTENED:
        for _ in range(_CUT_OFF):
            path = _solved(graph, weights, rows, away, tightened)
            if path is None or all(row.keeps(path) for row in rows):
                return path
            away.append(Cut(path))
    raise ArithmeticError("the solver's answers overstep the budgets")


def _solved(
    graph: Graph, weights: Values, rows: Sequence[Row], cuts: Sequence[Cut], tightened: float
) -> Path | None:
    """What the solver makes of it, which may overstep a row by the solver's tolerance."""
    kept = np.logical_and.reduce([row.possible(graph) for row in rows], initial=True)
    places = np.flatnonzero(np.broadcast_to(kept, len(graph.edges)))
    limits = [flow(graph), *(_budget(row, tightened) for row in rows)]
    limits += [limit for cut in cuts for limit in _away(cut, len(graph.edges))]
    matrix = scipy.sparse.vstack([limit[0] for limit in limits], format="csc")[:, places]
    low, high = (np.concatenate([limit[side] for limit in limits]) for side in (1, 2))
    if not len(places):
        return None
    result = _minimised(_levelled(graph, weights)[places], matrix, low, high)
    if result.status == _INFEASIBLE:
        return None
    return graph.path(places[np.round(result.x) == 1].tolist())


def _minimised(
    weights: Values, matrix: scipy.sparse.csr_array, low: Values, high: Values
) -> scipy.optimize.OptimizeResult:
    """The solver's optimum or its proof that there is none."""
    for presolve in (True, False):  # presolve may leave open whether it is infeasible or unbounded
        with warnings.catch_warnings():
            # scipy hands on the tolerances, which it does not know, with a warning
            warnings.filterwarnings("ignore", "Unrecognized options", RuntimeWarning)
            result = scipy.optimize.milp(
                weights,
                integrality=np.ones(len(weights)),
                bounds=scipy.optimize.Bounds(0, 1),
                constraints=scipy.optimize.LinearConstraint(matrix, low, high),
                options={**_OPTIONS, "presolve": presolve},
            )
        if result.status in (_OPTIMAL, _INFEASIBLE):
            return result
    raise ArithmeticError(f"the solver gave up: {result.message}")


def _levelled(graph: Graph, weights: Values) -> Values:
    """Weights less what the lightest path onward would have weighed, in units of their median.

    Every path's weight falls by the same amount, to its excess over the lightest path: what the
    solver's tolerances should be relative to.
    """
    onward = graph.onward(weights)
    excess = np.maximum(weights + onward[graph.heads] - onward[graph.tails], 0.0)
    positive = excess[excess > 0]
    return excess / np.median(positive) if len(positive) else excess


Limit = tuple["scipy.sparse.csr_array", Values, Values]


def flow(graph: Graph) -> Limit:
    """What enters a node leaves it; one unit leaves the source and enters the sink."""
    count = len(graph.edges)
    signs = np.repeat([1.0, -1.0], count)
    ends = np.concatenate([graph.tails, graph.heads]), np.tile(np.arange(count), 2)
    net = np.zeros(graph.nodes)
    net[0], net[-1] = 1.0, -1.0
    return scipy.sparse.csr_array((signs, ends), shape=(graph.nodes, count)), net, net


def _budget(row: Row, tightened: float) -> Limit:
    low, high = row.bounds(tightened)
    matrix = scipy.sparse.csr_array(row.values[None, :] / row.scale)
    return matrix, np.array([low / row.scale]), np.array([high / row.scale])


def _away(cut: Cut, count: int) -> list[Limit]:
    """At least so many edges of the path missing, and so many others taken."""
    within = np.zeros(count)
    within[list(cut.path)] = 1.0
    missing = (
        scipy.sparse.csr_array(within[None, :]),
        np.array([-math.inf]),
        np.array([len(cut.path) - cut.apart]),
    )
    others = (
        scipy.sparse.csr_array(1.0 - within[None, :]),
        np.array([cut.apart]),
        np.array([math.inf]),
    )
    return [missing] if cut.apart == 1 else [missing, others]
