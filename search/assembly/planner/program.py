"""The path of least weight under budgets, as an integer program solved by HiGHS."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts when they are first used: a second, which only a plan need wait for

from stillhouse.search.assembly.planner.budget import BudgetRow
from stillhouse.search.assembly.planner.graph import FloatArray, Graph

EdgePath = tuple[int, ...]

_SOLVER_TOLERANCE = 1e-9
_TIGHTENING_STEPS = (0.0, 1e-8, 1e-7, 1e-6)
"""Parts of a row's scale by which budgets are drawn in when the solver's answers overstep them."""
_MAX_REJECTED_PATHS = 8
"""Paths that overstep a budget by less than the tolerance and are cut off one by one before that:
nothing is lost so long as they are few."""
_STATUS_OPTIMAL, _STATUS_INFEASIBLE = 0, 2
_SOLVER_OPTIONS = {
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    "mip_feasibility_tolerance": _SOLVER_TOLERANCE,
    "primal_feasibility_tolerance": _SOLVER_TOLERANCE,
    "dual_feasibility_tolerance": 1e-10,  # the least; scores differ by orders of magnitude
}


@dataclass(frozen=True)
class NoGoodCut:
    """A path that answers must differ from: at least ``min_difference`` edges of each are not the
    other's.

    Paths cannot contain one another, so that being another path is being 1 apart.
    """

    path: EdgePath
    min_difference: int = 1


def lightest_path(
    graph: Graph, weights: FloatArray, rows: Sequence[BudgetRow], cuts: Sequence[NoGoodCut] = ()
) -> EdgePath | None:
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
    no_good_cuts = list(cuts)
    for tightening in _TIGHTENING_STEPS:
        for _ in range(_MAX_REJECTED_PATHS):
            path = _solve(graph, weights, rows, no_good_cuts, tightening)
            if path is None or all(row.is_kept_by(path) for row in rows):
                return path
            no_good_cuts.append(NoGoodCut(path))
    raise ArithmeticError("the solver's answers overstep the budgets")


def _solve(
    graph: Graph,
    weights: FloatArray,
    rows: Sequence[BudgetRow],
    cuts: Sequence[NoGoodCut],
    tightening: float,
) -> EdgePath | None:
    """What the solver makes of it, which may overstep a row by the solver's tolerance."""
    feasible = np.logical_and.reduce([row.feasible_edges(graph) for row in rows], initial=True)
    edge_indices = np.flatnonzero(np.broadcast_to(feasible, len(graph.edges)))
    constraints = [flow_constraints(graph), *(_budget_constraint(row, tightening) for row in rows)]
    constraints += [
        constraint for cut in cuts for constraint in _no_good_constraints(cut, len(graph.edges))
    ]
    matrix = scipy.sparse.vstack([constraint[0] for constraint in constraints], format="csc")[
        :, edge_indices
    ]
    low, high = (
        np.concatenate([constraint[part] for constraint in constraints]) for part in (1, 2)
    )
    if not len(edge_indices):
        return None
    result = _solve_milp(_reduced_weights(graph, weights)[edge_indices], matrix, low, high)
    if result.status == _STATUS_INFEASIBLE:
        return None
    return graph.ordered_path(edge_indices[np.round(result.x) == 1].tolist())


def _solve_milp(
    weights: FloatArray, matrix: scipy.sparse.csr_array, low: FloatArray, high: FloatArray
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
                options={**_SOLVER_OPTIONS, "presolve": presolve},
            )
        if result.status in (_STATUS_OPTIMAL, _STATUS_INFEASIBLE):
            return result
    raise ArithmeticError(f"the solver gave up: {result.message}")


def _reduced_weights(graph: Graph, weights: FloatArray) -> FloatArray:
    """Weights less what the lightest path onward would have weighed, in units of their median.

    Every path's weight falls by the same amount, to its excess over the lightest path: what the
    solver's tolerances should be relative to.
    """
    to_sink = graph.distance_to_sink(weights)
    excess = np.maximum(weights + to_sink[graph.heads] - to_sink[graph.tails], 0.0)
    positive = excess[excess > 0]
    return excess / np.median(positive) if len(positive) else excess


ConstraintRows = tuple["scipy.sparse.csr_array", FloatArray, FloatArray]


def flow_constraints(graph: Graph) -> ConstraintRows:
    """What enters a node leaves it; one unit leaves the source and enters the sink."""
    num_edges = len(graph.edges)
    signs = np.repeat([1.0, -1.0], num_edges)
    nodes_and_edges = np.concatenate([graph.tails, graph.heads]), np.tile(np.arange(num_edges), 2)
    net_flow = np.zeros(graph.num_nodes)
    net_flow[0], net_flow[-1] = 1.0, -1.0
    return (
        scipy.sparse.csr_array((signs, nodes_and_edges), shape=(graph.num_nodes, num_edges)),
        net_flow,
        net_flow,
    )


def _budget_constraint(row: BudgetRow, tightening: float) -> ConstraintRows:
    low, high = row.bounds(tightening)
    matrix = scipy.sparse.csr_array(row.values[None, :] / row.scale)
    return matrix, np.array([low / row.scale]), np.array([high / row.scale])


def _no_good_constraints(cut: NoGoodCut, num_edges: int) -> list[ConstraintRows]:
    """At least so many edges of the path missing, and so many others taken."""
    on_path = np.zeros(num_edges)
    on_path[list(cut.path)] = 1.0
    enough_missing = (
        scipy.sparse.csr_array(on_path[None, :]),
        np.array([-math.inf]),
        np.array([len(cut.path) - cut.min_difference]),
    )
    enough_others = (
        scipy.sparse.csr_array(1.0 - on_path[None, :]),
        np.array([cut.min_difference]),
        np.array([math.inf]),
    )
    return [enough_missing] if cut.min_difference == 1 else [enough_missing, enough_others]
