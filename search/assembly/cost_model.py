"""The assembly cost model: predictions for assemblies, calibrated by measured assemblies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.assembly.calibration import (
    MIN_MEASURED_ASSEMBLIES,
    CalibrationResult,
    calibrate,
)
from stillhouse.search.assembly.planner import (
    Assembly,
    Budget,
    DisconnectedGraph,
    Edge,
    InfeasibleBudgets,
    assemblies,
    pareto_front,
)
from stillhouse.search.assembly.pool import (
    SINK,
    SOURCE,
    BlockPool,
    EdgePath,
    ScoreName,
)
from stillhouse.search.core.metrics import LATENCY_METRIC
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

Budgets = Mapping[str, Limit]


@dataclass(frozen=True)
class AssemblyCostModel:
    """An additive model over parts, calibrated by measured assemblies (DONNA, section 3.3).

    ``loss_calibration`` maps summed scores to lost accuracy. ``latency_calibration`` maps summed
    latencies to that of the whole network, and is used only if it helps. Both are None if fewer
    than three assemblies were measured.
    """

    additive_edges: tuple[Edge, ...]
    fixed_costs: Mapping[str, float]
    measured_assemblies: Mapping[EdgePath, Record]
    loss_calibration: CalibrationResult | None
    latency_calibration: CalibrationResult | None

    @property
    def calibrated_edges(self) -> list[Edge]:
        """The parts with calibrated scores and latencies, as edges for the planner."""
        scored_edges = self.loss_calibration.edges if self.loss_calibration else self.additive_edges
        if self._useful_latency_calibration is None:
            return list(scored_edges)
        latencies = [edge.costs[LATENCY_METRIC] for edge in self._useful_latency_calibration.edges]
        return [
            replace(edge, costs={**edge.costs, LATENCY_METRIC: latency})
            for edge, latency in zip(scored_edges, latencies, strict=True)
        ]

    def best_plans(
        self, budgets: Budgets, count: int = 1, min_difference: int = 1, allow_fewer: bool = False
    ) -> list[Assembly]:
        """The ``count`` best plans in order; ``allow_fewer`` accepts fewer plans.

        Raises:
            ConfigError: a budget that cannot be met, with its nearest feasible value; cuts with a
                gap; fewer plans than ``count``.
        """
        self._require_known_costs(budgets, "budgets")
        with _planner_errors():
            plans = assemblies(
                self.calibrated_edges,
                SOURCE,
                SINK,
                _planner_budgets(budgets),
                fixed_costs=self._fixed_offsets(),
                count=count,
                min_difference=min_difference,
            )
        if len(plans) < count and not allow_fewer:
            message = f"the budgets leave {len(plans)} plans, ranks 0 to {len(plans) - 1}"
            raise ConfigError([Problem("rank", message)])
        return plans

    def pareto_front(self, cost: str, budgets: Budgets, points: int) -> list[Assembly]:
        """The Pareto front of score and ``cost``, the best score first.

        Raises:
            ConfigError: as :meth:`best_plans`.
        """
        self._require_known_costs([cost, *budgets], "budgets")
        with _planner_errors():
            return pareto_front(
                self.calibrated_edges,
                SOURCE,
                SINK,
                cost,
                _planner_budgets(budgets),
                fixed_costs=self._fixed_offsets(),
                points=points,
            )

    def plan_at_share(self, cost: str, share: float) -> Assembly:
        """The best plan up to least cost + ``share`` * (cost of the best plan - least cost).

        Raises:
            ConfigError: as :meth:`best_plans`.
        """
        cost_of_best = self.best_plans({})[0].costs[cost]
        edges = [replace(edge, score=edge.costs[cost]) for edge in self.calibrated_edges]
        (cheapest,) = assemblies(edges, SOURCE, SINK, {}, fixed_costs=self._fixed_offsets())
        least_cost = cheapest.costs[cost]
        limit = Limit(max=least_cost + share * max(cost_of_best - least_cost, 0.0))
        return self.best_plans({cost: limit})[0]

    def additive_sums(self, path: EdgePath) -> tuple[float, float | None]:
        """The plain sums of score and latency over an assembly."""
        edges = [self.additive_edges[i] for i in path]
        latencies = [edge.costs.get(LATENCY_METRIC) for edge in edges]
        known_latencies = [latency for latency in latencies if latency is not None]
        total_latency = math.fsum(known_latencies) if len(known_latencies) == len(edges) else None
        return math.fsum(edge.score for edge in edges), total_latency

    def expected_loss(self, plan: Assembly) -> float | None:
        """The predicted loss of accuracy, clamped to 0..1; None without a calibration."""
        if self.loss_calibration is None:
            return None
        return min(max(plan.score + self.loss_calibration.intercept, 0.0), 1.0)

    def calibration_summary(self) -> dict[str, Any]:
        """Agreement of prediction and measurement before and after calibration, as JSON types.

        With too few measured assemblies only their number; without any, nothing.
        """
        if not self.measured_assemblies:
            return {}
        calibrations = {"score": self.loss_calibration, LATENCY_METRIC: self.latency_calibration}
        summaries = {
            name: {
                "before": _finite_or_none(calibration.agreement_before),
                "after": _finite_or_none(calibration.agreement_after),
                "left_out": _finite_or_none(calibration.agreement_left_out),
            }
            for name, calibration in calibrations.items()
            if calibration is not None
        }
        return {"assemblies": len(self.measured_assemblies), **summaries}

    def _fixed_offsets(self) -> dict[str, float]:
        calibration = self._useful_latency_calibration
        latency = {LATENCY_METRIC: calibration.intercept} if calibration else {}
        return {**self.fixed_costs, **latency}

    @property
    def _useful_latency_calibration(self) -> CalibrationResult | None:
        """The calibration of latencies if it helps, else None."""
        calibration = self.latency_calibration
        return calibration if calibration and calibration.is_helpful else None

    def _require_known_costs(self, costs: Sequence[str] | Budgets, field: str) -> None:
        known_costs = set.intersection(*(set(edge.costs) for edge in self.additive_edges))
        for cost in costs:
            if cost == LATENCY_METRIC and cost not in known_costs:
                message = (
                    f"the parts' {LATENCY_METRIC} is not measured; give the entry that assembles "
                    "`latency: {}` or a budget of it, and launch"
                )
                raise ConfigError([Problem(field, message)])
            if cost not in known_costs:
                raise ConfigError(
                    [Problem(field, unknown_message("cost", cost, sorted(known_costs)))]
                )


def _planner_budgets(budgets: Budgets) -> dict[str, Budget]:
    return {cost: Budget(limit.max, limit.min) for cost, limit in budgets.items()}


@contextmanager
def _planner_errors() -> Iterator[None]:
    """The planner's errors as problems of the field ``budgets``."""
    try:
        yield
    except (InfeasibleBudgets, DisconnectedGraph) as error:
        raise ConfigError([Problem("budgets", str(error))]) from None


def fit_cost_model(
    pool: BlockPool, score: ScoreName, records: Sequence[Record]
) -> AssemblyCostModel:
    """The cost model of a pool, calibrated by the assemblies of its parts among ``records``."""
    edges, measured = pool.edges(score), pool.measured_paths(records)
    losses = {path: 1.0 - record.figures["val_accuracy"] for path, record in measured.items()}
    latencies = {
        path: record.figures[LATENCY_METRIC]
        for path, record in measured.items()
        if LATENCY_METRIC in record.figures
        and all(LATENCY_METRIC in edges[index].costs for index in path)
    }
    loss_calibration = (
        _calibrate_loss(edges, losses) if len(losses) >= MIN_MEASURED_ASSEMBLIES else None
    )
    latency_calibration = (
        calibrate(edges, latencies, cost=LATENCY_METRIC)
        if len(latencies) >= MIN_MEASURED_ASSEMBLIES
        else None
    )
    return AssemblyCostModel(
        tuple(edges), pool.fixed_costs, measured, loss_calibration, latency_calibration
    )


def _calibrate_loss(edges: Sequence[Edge], losses: Mapping[EdgePath, float]) -> CalibrationResult:
    """One common factor, or one factor per candidate if its leave-one-out ranking is better.

    The ranking decides, because a plan is chosen by rank.
    """
    common = calibrate(edges, losses)
    per_candidate = calibrate(edges, losses, grouping=_candidate_name)
    is_better = per_candidate.agreement_left_out.spearman > common.agreement_left_out.spearman
    return per_candidate if is_better else common


def _candidate_name(edge: Edge) -> str:
    """The group of an edge: ``ghost`` for ``3-5 ghost``."""
    return edge.name.partition(" ")[2] or edge.name


def _finite_or_none(agreement: Any) -> dict[str, float | None]:
    """The values, with None for numbers that JSON does not have."""
    return {k: v if math.isfinite(v) else None for k, v in asdict(agreement).items()}
