"""Correcting the additive model of the planner by what whole assemblies were measured at.

A sum over neighbourhoods predicts how good (or how slow) an assembly is; once some have been
evaluated end to end, regression tells how the parts really add (the idea of DONNA, Moons et al.
2021, section 3.3: a linear model from block metrics, fitted on a few tens of whole networks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import scipy  # its parts when they are first used: a second, which a search need not wait for
from numpy.typing import NDArray

from stillhouse.search.assembly.planner import Edge

MIN_MEASURED_ASSEMBLIES = 3
"""Measured assemblies; with fewer, none can be left out to try a line on it."""

GroupSums = Mapping[str, float]
"""What an assembly's neighbourhoods of each kind are predicted to add up to."""
EdgeGrouping = Callable[[Edge], str]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class LinearCorrection:
    """measured = intercept + the sum over kinds of factor x predicted.

    ``slope`` is the common factor, ``factors`` those of the kinds that were measured, and
    ``residual`` the root mean square of what is left, in units of what was measured.
    """

    slope: float
    intercept: float
    factors: Mapping[str, float]
    residual: float

    def factor_of(self, group: str) -> float:
        """What the predictions of a kind are multiplied by; an unseen kind gets the slope."""
        return self.factors.get(group, self.slope)

    def predict(self, group_sums: GroupSums) -> float:
        """The corrected prediction for an assembly."""
        return math.fsum(
            [
                self.intercept,
                *(self.factor_of(group) * predicted for group, predicted in group_sums.items()),
            ]
        )


@dataclass(frozen=True)
class Agreement:
    """How far predictions are from the truth, and how alike both rank the assemblies.

    The correlations are NaN where all predictions (or all measurements) are equal.
    """

    mean_absolute_error: float
    spearman: float
    kendall: float


@dataclass(frozen=True)
class CalibrationResult:
    """Corrected edges and how good the model was and is.

    ``intercept`` is the intercept, which no edge carries: the planner's ``intercept`` where a cost
    was corrected; it ranks nothing where the score was. ``agreement_after`` is on the assemblies
    the model was fitted to, ``agreement_left_out`` on each by a model fitted to the others.
    """

    edges: tuple[Edge, ...]
    intercept: float
    model: LinearCorrection
    agreement_before: Agreement
    agreement_after: Agreement
    agreement_left_out: Agreement

    @property
    def is_helpful(self) -> bool:
        """Whether what was left out is foretold better than by the plain sum, in the same unit."""
        return (
            self.agreement_left_out.mean_absolute_error < self.agreement_before.mean_absolute_error
        )


def single_group(_: Edge) -> str:
    """The default: one factor for all."""
    return "all"


def calibrate(
    edges: Sequence[Edge],
    measured: Mapping[tuple[int, ...], float],
    *,
    cost: str | None = None,
    fixed: float = 0.0,
    grouping: EdgeGrouping = single_group,
    ridge: float = 1.0,
) -> CalibrationResult:
    """Edges whose sums fit what assemblies were measured at.

    Args:
        edges: those the planner was given.
        measured: what was measured, by the indices of an assembly's edges: smaller is better for
            the score (accuracy lost, say, not accuracy), the same unit as the cost for a cost.
        cost: which cost to correct; None is the score.
        fixed: what the prediction has on top of the edges' sum, as the planner was told.
        kind: which edges share a factor, such as those of one candidate name.
        ridge: see :func:`fit`.

    Raises:
        ValueError: fewer than three assemblies, or a value that is not finite.
    """
    group_sums = [_group_sums([edges[i] for i in path], cost, grouping) for path in measured]
    measured_values = list(measured.values())
    # What a network costs besides its parts is nothing or something: no less.
    fit_model = partial(fit, ridge=ridge, min_intercept=-math.inf if cost is None else 0.0)
    model = fit_model(group_sums, measured_values)
    left_out_predictions = [
        fit_model(
            _without_index(group_sums, i),
            _without_index(measured_values, i),
            min_measured=MIN_MEASURED_ASSEMBLIES - 1,
        ).predict(group_sums[i])
        for i in range(len(group_sums))
    ]
    return CalibrationResult(
        tuple(_scale_edge(edge, model.factor_of(grouping(edge)), cost) for edge in edges),
        model.intercept,
        model,
        agreement([fixed + math.fsum(sums.values()) for sums in group_sums], measured_values),
        agreement([model.predict(sums) for sums in group_sums], measured_values),
        agreement(left_out_predictions, measured_values),
    )


def fit(
    group_sums: Sequence[GroupSums],
    measured: Sequence[float],
    *,
    ridge: float = 1.0,
    min_intercept: float = -math.inf,
    min_measured: int = MIN_MEASURED_ASSEMBLIES,
) -> LinearCorrection:
    """The line of least squares, with a factor of its own for each kind as far as data tell.

    Minimises the squared errors plus ``ridge`` x (variance of the predicted sums) x the
    squared differences of the factors from the slope: the more assemblies, the more the factors may
    differ; with one kind it is the ordinary line. No factor falls below 0, which would have the
    planner seek what was measured to be bad, and the intercept not below ``min_intercept``.

    Raises:
        ValueError: fewer than ``min_measured`` assemblies, or a value that is not finite.
    """
    if len(group_sums) != len(measured) or len(group_sums) < min_measured:
        raise ValueError(
            f"{min_measured} or more assemblies must be measured, found {len(group_sums)}"
        )
    measured_values = np.array(measured, float)
    groups = sorted({group for sums_of_assembly in group_sums for group in sums_of_assembly})
    sums = np.array(
        [[sums_of_assembly.get(group, 0.0) for group in groups] for sums_of_assembly in group_sums]
    )
    if not (np.isfinite(measured_values).all() and np.isfinite(sums).all()):
        raise ValueError("predicted and measured values must be finite")
    slope, factors = _solve_factors(
        sums - sums.mean(axis=0), measured_values - measured_values.mean(), ridge
    )
    intercept = float(np.mean(measured_values - sums @ factors))
    if intercept < min_intercept:
        slope, factors = _solve_factors(sums, measured_values - min_intercept, ridge)
        intercept = min_intercept
    fitted = sums @ factors
    residual = float(np.sqrt(np.mean((measured_values - fitted - intercept) ** 2)))
    return LinearCorrection(
        slope, intercept, dict(zip(groups, factors.tolist(), strict=True)), residual
    )


def _solve_factors(
    sums: NDArray[np.float64], measured_values: NDArray[np.float64], ridge: float
) -> tuple[float, NDArray[np.float64]]:
    """Slope and factors, all of them 0 or more, of a line through the origin; of columns that are
    centred, the line with a free intercept."""
    count = sums.shape[1]
    scale = float(np.std(sums.sum(axis=1))) or 1.0
    ridge_weight = (
        math.sqrt(ridge) if count > 1 else 1.0
    )  # of one kind, factor and slope are the same
    differences = ridge_weight * np.hstack([-np.ones((count, 1)), np.eye(count)])
    errors = np.hstack([np.zeros((len(sums), 1)), sums / scale])
    rows, targets = (
        np.vstack([errors, differences]),
        np.concatenate([measured_values, np.zeros(count)]),
    )
    solution = scipy.optimize.lsq_linear(rows, targets, (0, np.inf), tol=1e-12).x / scale
    return float(solution[0]), solution[1:]


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Mean absolute error and rank correlations of predictions with measurements."""
    error = float(np.mean(np.abs(np.subtract(predicted, measured))))
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        return Agreement(error, math.nan, math.nan)
    spearman = scipy.stats.spearmanr(predicted, measured).statistic
    return Agreement(
        error, float(spearman), float(scipy.stats.kendalltau(predicted, measured).statistic)
    )


def _group_sums(
    edges: Sequence[Edge], cost: str | None, grouping: EdgeGrouping
) -> dict[str, float]:
    sums: dict[str, float] = {}
    for edge in edges:
        value = edge.score if cost is None else edge.costs[cost]
        sums[grouping(edge)] = sums.get(grouping(edge), 0.0) + value
    return sums


def _scale_edge(edge: Edge, factor: float, cost: str | None) -> Edge:
    if cost is None:
        return replace(edge, score=factor * edge.score)
    return replace(edge, costs={**edge.costs, cost: factor * edge.costs[cost]})


def _without_index(items: Sequence[_Item], index: int) -> list[_Item]:
    return [item for i, item in enumerate(items) if i != index]
