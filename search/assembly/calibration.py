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

FEWEST = 3
"""Measured assemblies; with fewer, none can be left out to try a line on it."""

Parts = Mapping[str, float]
"""What an assembly's neighbourhoods of each kind are predicted to add up to."""
Kind = Callable[[Edge], str]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Calibration:
    """measured = intercept + the sum over kinds of factor x predicted.

    ``slope`` is the common factor, ``factors`` those of the kinds that were measured, and
    ``residual`` the root mean square of what is left, in units of what was measured.
    """

    slope: float
    intercept: float
    factors: Mapping[str, float]
    residual: float

    def factor(self, kind: str) -> float:
        """What the predictions of a kind are multiplied by; an unseen kind gets the slope."""
        return self.factors.get(kind, self.slope)

    def predict(self, parts: Parts) -> float:
        """The corrected prediction for an assembly."""
        return math.fsum([self.intercept, *(self.factor(k) * v for k, v in parts.items())])


@dataclass(frozen=True)
class Agreement:
    """How far predictions are from the truth, and how alike both rank the assemblies.

    The correlations are NaN where all predictions (or all measurements) are equal.
    """

    mean_absolute_error: float
    spearman: float
    kendall: float


@dataclass(frozen=True)
class Calibrated:
    """Corrected edges and how good the model was and is.

    ``fixed`` is the intercept, which no edge carries: the planner's ``fixed`` where a cost was
    corrected; it ranks nothing where the score was. ``after`` is on the assemblies the model was
    fitted to, ``left_out`` on each by a model fitted to the others.
    """

    edges: tuple[Edge, ...]
    fixed: float
    calibration: Calibration
    before: Agreement
    after: Agreement
    left_out: Agreement

    @property
    def helps(self) -> bool:
        """Whether what was left out is foretold better than by the plain sum, in the same unit."""
        return self.left_out.mean_absolute_error < self.before.mean_absolute_error


def same_kind(_: Edge) -> str:
    """The default: one factor for all."""
    return "all"


def calibrated(
    edges: Sequence[Edge],
    measured: Mapping[tuple[int, ...], float],
    *,
    cost: str | None = None,
    fixed: float = 0.0,
    kind: Kind = same_kind,
    ridge: float = 1.0,
) -> Calibrated:
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
    parts = [_parts([edges[i] for i in path], cost, kind) for path in measured]
    truth = list(measured.values())
    # What a network costs besides its parts is nothing or something: no less.
    fitted = partial(fit, ridge=ridge, least=-math.inf if cost is None else 0.0)
    model = fitted(parts, truth)
    others = [
        fitted(_without(parts, i), _without(truth, i), fewest=FEWEST - 1).predict(parts[i])
        for i in range(len(parts))
    ]
    return Calibrated(
        tuple(_corrected(edge, model.factor(kind(edge)), cost) for edge in edges),
        model.intercept,
        model,
        agreement([fixed + math.fsum(each.values()) for each in parts], truth),
        agreement([model.predict(each) for each in parts], truth),
        agreement(others, truth),
    )


def fit(
    parts: Sequence[Parts],
    measured: Sequence[float],
    *,
    ridge: float = 1.0,
    least: float = -math.inf,
    fewest: int = FEWEST,
) -> Calibration:
    """The line of least squares, with a factor of its own for each kind as far as data tell.

    Minimises the squared errors plus ``ridge`` x (variance of the predicted sums) x the
    squared differences of the factors from the slope: the more assemblies, the more the factors may
    differ; with one kind it is the ordinary line. No factor falls below 0, which would have the
    planner seek what was measured to be bad, and the intercept not below ``least``.

    Raises:
        ValueError: fewer than ``fewest`` assemblies, or a value that is not finite.
    """
    if len(parts) != len(measured) or len(parts) < fewest:
        raise ValueError(f"{fewest} or more assemblies must be measured, found {len(parts)}")
    truth = np.array(measured, float)
    kinds = sorted({kind for each in parts for kind in each})
    sums = np.array([[each.get(kind, 0.0) for kind in kinds] for each in parts])
    if not (np.isfinite(truth).all() and np.isfinite(sums).all()):
        raise ValueError("predicted and measured values must be finite")
    slope, factors = _factors(sums - sums.mean(axis=0), truth - truth.mean(), ridge)
    intercept = float(np.mean(truth - sums @ factors))
    if intercept < least:
        slope, factors = _factors(sums, truth - least, ridge)
        intercept = least
    fitted = sums @ factors
    residual = float(np.sqrt(np.mean((truth - fitted - intercept) ** 2)))
    return Calibration(slope, intercept, dict(zip(kinds, factors.tolist(), strict=True)), residual)


def _factors(
    sums: NDArray[np.float64], truth: NDArray[np.float64], ridge: float
) -> tuple[float, NDArray[np.float64]]:
    """Slope and factors, all of them 0 or more, of a line through the origin; of columns that are
    centred, the line with a free intercept."""
    count = sums.shape[1]
    unit = float(np.std(sums.sum(axis=1))) or 1.0
    pull = math.sqrt(ridge) if count > 1 else 1.0  # of one kind, factor and slope are the same
    differences = pull * np.hstack([-np.ones((count, 1)), np.eye(count)])
    errors = np.hstack([np.zeros((len(sums), 1)), sums / unit])
    rows, goal = np.vstack([errors, differences]), np.concatenate([truth, np.zeros(count)])
    solved = scipy.optimize.lsq_linear(rows, goal, (0, np.inf), tol=1e-12).x / unit
    return float(solved[0]), solved[1:]


def agreement(predicted: Sequence[float], measured: Sequence[float]) -> Agreement:
    """Mean absolute error and rank correlations of predictions with measurements."""
    error = float(np.mean(np.abs(np.subtract(predicted, measured))))
    if len(set(predicted)) < 2 or len(set(measured)) < 2:
        return Agreement(error, math.nan, math.nan)
    spearman = scipy.stats.spearmanr(predicted, measured).statistic
    return Agreement(
        error, float(spearman), float(scipy.stats.kendalltau(predicted, measured).statistic)
    )


def _parts(taken: Sequence[Edge], cost: str | None, kind: Kind) -> dict[str, float]:
    parts: dict[str, float] = {}
    for edge in taken:
        value = edge.score if cost is None else edge.costs[cost]
        parts[kind(edge)] = parts.get(kind(edge), 0.0) + value
    return parts


def _corrected(edge: Edge, factor: float, cost: str | None) -> Edge:
    if cost is None:
        return replace(edge, score=factor * edge.score)
    return replace(edge, costs={**edge.costs, cost: factor * edge.costs[cost]})


def _without(items: Sequence[_Item], place: int) -> list[_Item]:
    return [item for i, item in enumerate(items) if i != place]
