"""Calibration of the planner's additive model by measurements of whole assemblies.

A sum over neighbourhoods predicts the score or the latency of an assembly. A regression on measured
assemblies corrects this sum. DONNA (Moons et al. 2021, section 3.3) fits such a linear model of
block metrics on a few tens of whole networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import scipy  # loads its parts at first use, which saves a second at the start
from numpy.typing import NDArray

from stillhouse.search.assembly.planner import Edge

MIN_MEASURED_ASSEMBLIES = 3
"""With fewer measured assemblies, leave-one-out predictions are impossible."""

GroupSums = Mapping[str, float]
"""Group of edges -> predicted sum over an assembly's edges of this group."""
EdgeGrouping = Callable[[Edge], str]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class LinearCorrection:
    """measured = intercept + the sum over groups of factor x predicted.

    ``slope`` is the common factor, ``factors`` those of the measured groups. ``residual`` is the
    root mean square error, in units of the measurement.
    """

    slope: float
    intercept: float
    factors: Mapping[str, float]
    residual: float

    def factor_of(self, group: str) -> float:
        """The factor of a group; the slope for a group that was not measured."""
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
    """Error and rank correlations of predictions and measurements.

    The correlations are NaN if all predictions or all measurements are equal.
    """

    mean_absolute_error: float
    spearman: float
    kendall: float


@dataclass(frozen=True)
class CalibrationResult:
    """Calibrated edges, and the agreement of the model before and after calibration.

    ``intercept`` belongs to no edge. For a cost it is a fixed cost of the planner; for the score it
    changes no ranking. ``agreement_after`` is on the fitted assemblies; ``agreement_left_out`` is
    on each assembly by a model fitted to the others.
    """

    edges: tuple[Edge, ...]
    intercept: float
    model: LinearCorrection
    agreement_before: Agreement
    agreement_after: Agreement
    agreement_left_out: Agreement

    @property
    def is_helpful(self) -> bool:
        """Whether leave-one-out predictions have a smaller error than the plain sum."""
        return (
            self.agreement_left_out.mean_absolute_error < self.agreement_before.mean_absolute_error
        )


def single_group(_: Edge) -> str:
    """The default grouping: one factor for all edges."""
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
    """Edges whose sums fit the measurements of assemblies.

    Args:
        edges: the edges of the planner.
        measured: indices of an assembly's edges -> measured value. Smaller is better for the score
            (lost accuracy, for example); for a cost the unit is that of the cost.
        cost: the cost to correct; None is the score.
        fixed: the planner's fixed cost, which the prediction adds to the edges' sum.
        grouping: edges of one group share a factor.
        ridge: see :func:`fit`.

    Raises:
        ValueError: fewer than three assemblies, or a value that is not finite.
    """
    group_sums = [_group_sums([edges[i] for i in path], cost, grouping) for path in measured]
    measured_values = list(measured.values())
    # The fixed cost of a network besides its parts is never negative.
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
    """The least-squares line with a factor for each group, regularised towards a common factor.

    Minimises the squared errors plus ``ridge`` x (variance of the predicted sums) x the squared
    differences of the factors from the slope. So more assemblies allow larger differences. With
    one group it is the ordinary line. Factors are 0 or more, because the planner would prefer bad
    parts otherwise. The intercept is ``min_intercept`` or more.

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
    """Slope and factors, all 0 or more, of a line through the origin.

    For centred columns this is the line with a free intercept.
    """
    count = sums.shape[1]
    scale = float(np.std(sums.sum(axis=1))) or 1.0
    # With one group, factor and slope are the same.
    ridge_weight = math.sqrt(ridge) if count > 1 else 1.0
    differences = ridge_weight * np.hstack([-np.ones((count, 1)), np.eye(count)])
    errors = np.hstack([np.zeros((len(sums), 1)), sums / scale])
    rows, targets = (
        np.vstack([errors, differences]),
        np.concatenate([measured_values, np.zeros(count)]),
    )
    solution = scipy.optimize.lsq_linear(rows, targets, (0, np.inf), tol=1e-12).x / scale
    return float(solution[0]), solution[1:]


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Mean absolute error and rank correlations of predictions and measurements."""
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
    return [*items[:index], *items[index + 1 :]]
