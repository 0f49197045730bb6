"""The path of least weight under budgets, as an integer program solved by HiGHS."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # loads its parts at first use, which saves a second at the start

from stillhouse.search.assembly.planner.budget import BudgetRow
from stillhouse.search.assembly.planner.graph import FloatArray, Graph

EdgePath = tuple[int, ...]

_SOLVER_TOLERANCE = 1e-9
_TIGHTENING_STEPS = (0.0, 1e-8, 1e-7, 1e-6)
"""Shares of a row's scale by which budgets are tightened when answers exceed them."""
_MAX_REJECTED_PATHS = 8
"""Paths that exceed a budget by less than the tolerance and are excluded one by one before budgets
are tightened. Excluding single paths loses no solution."""
_STATUS_OPTIMAL, _STATUS_INFEASIBLE = 0, 2
_SOLVER_OPTIONS = {
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    "mip_feasibility_tolerance": _SOLVER_TOLERANCE,
    "primal_feasibility_tolerance": _SOLVER_TOLERANCE,
    "dual_feasibility_tolerance": 1e-10,  # the minimum; scores differ by orders of magnitude
}


@dataclass(frozen=True)
class NoGoodCut:
    """A path from which answers must differ by at least ``min_difference`` edges in each.

    No path contains another, so any other path differs by at least 1.
    """

    path: EdgePath
    min_difference: int = 1


def lightest_path(
    graph: Graph, weights: FloatArray, rows: Sequence[BudgetRow], cuts: Sequence[NoGoodCut] = ()
) -> EdgePath | None:
    """The path of least weight that satisfies all rows exactly and all cuts; None if infeasible.

    Args:
        graph: the edges.
        weights: the values that are minimised, one for each edge.
        rows: the budgets.
        cuts: paths to exclude.

    Returns:
        Indices in ``graph.edges``, from source to sink. The path is optimal within 1e-9 of the
        median weight. If more than a few paths exceed a budget by less than the solver's
        tolerance, the budget is tightened by 1e-8 of the largest edge's cost or more.

    Raises:
        ArithmeticError: the solver failed, or its answer is invalid.
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
    """The solver's answer, which may exceed a row by the solver's tolerance."""
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
    """The optimum, or the proof that there is none."""
    for presolve in (True, False):  # presolve may not decide between infeasible and unbounded
        with warnings.catch_warnings():
            # scipy passes unknown options on to HiGHS with a warning
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
    """Weights with shortest-path potentials subtracted, in units of their median.

    The weight of every path falls by the same amount, to its excess over the lightest path. The
    solver's tolerances are then relative to this excess.
    """
    to_sink = graph.distance_to_sink(weights)
    excess = np.maximum(weights + to_sink[graph.heads] - to_sink[graph.tails], 0.0)
    positive = excess[excess > 0]
    return excess / np.median(positive) if len(positive) else excess


ConstraintRows = tuple["scipy.sparse.csr_array", FloatArray, FloatArray]


def flow_constraints(graph: Graph) -> ConstraintRows:
    """Flow conservation: one unit leaves the source and enters the sink."""
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
    """At least ``min_difference`` edges of the path are missing, and as many others are taken."""
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
