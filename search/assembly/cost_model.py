"""The estimate: what the planner expects of assemblies, corrected by those measured before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
    """Sums over parts, and how assemblies that were measured correct them (DONNA, section 3.3).

    ``loss_calibration`` turns summed scores into accuracy lost and ``latency_calibration`` summed
    latencies into a whole network's, which counts only if that helps; none where fewer than three
    assemblies were measured. ``measured_assemblies`` are those.
    """

    additive_edges: tuple[Edge, ...]
    fixed_costs: Mapping[str, float]
    measured_assemblies: Mapping[EdgePath, Record]
    loss_calibration: CalibrationResult | None
    latency_calibration: CalibrationResult | None

    @property
    def calibrated_edges(self) -> list[Edge]:
        """The parts as the planner takes them."""
        scored_edges = self.loss_calibration.edges if self.loss_calibration else self.additive_edges
        if self._useful_latency_calibration is None:
            return list(scored_edges)
        latencies = [edge.costs[LATENCY_METRIC] for edge in self._useful_latency_calibration.edges]
        return [
            Edge(
                scored_edge.tail,
                scored_edge.head,
                scored_edge.name,
                scored_edge.score,
                {**scored_edge.costs, LATENCY_METRIC: latency},
            )
            for scored_edge, latency in zip(scored_edges, latencies, strict=True)
        ]

    def best_plans(
        self, budgets: Budgets, count: int = 1, min_difference: int = 1, allow_fewer: bool = False
    ) -> list[Assembly]:
        """The ``count`` plans in order; with ``allow_fewer``, all there are if they are not so
        many.

        Raises:
            ConfigError: a budget that cannot be kept, with what can; cuts with a gap; too few.
        """
        edges, limits = (
            self.calibrated_edges,
            {cost: Budget(limit.max, limit.min) for cost, limit in budgets.items()},
        )
        self._require_known_costs(budgets, "budgets")
        try:
            plans = assemblies(
                edges,
                SOURCE,
                SINK,
                limits,
                fixed_costs=self._fixed_offsets(),
                count=count,
                min_difference=min_difference,
            )
        except (InfeasibleBudgets, DisconnectedGraph) as error:
            raise ConfigError([Problem("budgets", str(error))]) from None
        if len(plans) < count and not allow_fewer:
            message = f"the budgets leave {len(plans)} plans, ranks 0 to {len(plans) - 1}"
            raise ConfigError([Problem("rank", message)])
        return plans

    def pareto_front(self, cost: str, budgets: Budgets, points: int) -> list[Assembly]:
        """Plans that none beats in both score and ``cost``, the best score first.

        Raises:
            ConfigError: as :meth:`best_plans`.
        """
        limits = {name: Budget(limit.max, limit.min) for name, limit in budgets.items()}
        self._require_known_costs([cost, *budgets], "budgets")
        try:
            return pareto_front(
                self.calibrated_edges,
                SOURCE,
                SINK,
                cost,
                limits,
                fixed_costs=self._fixed_offsets(),
                points=points,
            )
        except (InfeasibleBudgets, DisconnectedGraph) as error:
            raise ConfigError([Problem("budgets", str(error))]) from None

    def plan_at_share(self, cost: str, share: float) -> Assembly:
        """The best plan within a share of the way from the least ``cost`` to the best score's.

        Raises:
            ConfigError: as :meth:`best_plans`.
        """
        cost_of_best = self.best_plans({})[0].costs[cost]
        edges = [
            Edge(edge.tail, edge.head, edge.name, edge.costs[cost], edge.costs)
            for edge in self.calibrated_edges
        ]
        least_cost = assemblies(edges, SOURCE, SINK, {}, fixed_costs=self._fixed_offsets())[
            0
        ].costs[cost]
        return self.best_plans(
            {cost: Limit(max=least_cost + share * max(cost_of_best - least_cost, 0.0))}
        )[0]

    def additive_sums(self, path: EdgePath) -> tuple[float, float | None]:
        """The plain sums of score and latency over an assembly."""
        edges = [self.additive_edges[i] for i in path]
        latencies = [edge.costs.get(LATENCY_METRIC) for edge in edges]
        known_latencies = [latency for latency in latencies if latency is not None]
        total_latency = math.fsum(known_latencies) if len(known_latencies) == len(edges) else None
        return math.fsum(edge.score for edge in edges), total_latency

    def expected_loss(self, plan: Assembly) -> float | None:
        """Accuracy an assembly is expected to lose, where assemblies were measured; the line goes
        on where no accuracy is left."""
        return (
            min(max(plan.score + self.loss_calibration.intercept, 0.0), 1.0)
            if self.loss_calibration
            else None
        )

    def calibration_summary(self) -> dict[str, Any]:
        """How far prediction and truth are apart, before and after, as JSON types.

        Of too few measured assemblies, only how many there are; of none, nothing.
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
        return {
            **self.fixed_costs,
            **(
                {LATENCY_METRIC: self._useful_latency_calibration.intercept}
                if self._useful_latency_calibration
                else {}
            ),
        }

    @property
    def _useful_latency_calibration(self) -> CalibrationResult | None:
        """The latencies' correction, where it helps."""
        return (
            self.latency_calibration
            if self.latency_calibration and self.latency_calibration.is_helpful
            else None
        )

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


def fit_cost_model(
    pool: BlockPool, score: ScoreName, records: Sequence[Record]
) -> AssemblyCostModel:
    """What is known of a pool's parts, and of assemblies of them among ``records``."""
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
    """One factor for all, or one for each kind of candidate where that ranks assemblies better
    that were left out of the fit: a plan is a choice, and a rank decides it."""
    common, per_candidate = (
        calibrate(edges, losses),
        calibrate(edges, losses, grouping=_candidate_name),
    )
    return (
        per_candidate
        if per_candidate.agreement_left_out.spearman > common.agreement_left_out.spearman
        else common
    )


def _candidate_name(edge: Edge) -> str:
    """Candidates of one kind share a correction: ``3-5 ghost`` is a ghost."""
    return edge.name.partition(" ")[2] or edge.name


def _finite_or_none(agreement: Any) -> dict[str, float | None]:
    """Without what is no number, which JSON has no word for."""
    return {k: v if math.isfinite(v) else None for k, v in asdict(agreement).items()}
