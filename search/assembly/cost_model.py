"""The estimate: what the planner expects of assemblies, corrected by those measured before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.assembly.calibration import FEWEST, Calibrated, calibrated
from stillhouse.search.assembly.planner import (
    Assembly,
    Budget,
    Disconnected,
    Edge,
    Infeasible,
    assemblies,
    front,
)
from stillhouse.search.assembly.pool import IN, LATENCY, OUT, Path, Pool, Score
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown

Budgets = Mapping[str, Limit]


@dataclass(frozen=True)
class Estimate:
    """Sums over parts, and how assemblies that were measured correct them (DONNA, section 3.3).

    ``loss`` turns summed scores into accuracy lost and ``latency`` summed latencies into a whole
    network's, which counts only if that helps; none where fewer than three assemblies were
    measured. ``measured`` are those.
    """

    summed: tuple[Edge, ...]
    fixed: Mapping[str, float]
    measured: Mapping[Path, Record]
    loss: Calibrated | None
    latency: Calibrated | None

    @property
    def edges(self) -> list[Edge]:
        """The parts as the planner takes them."""
        scores = self.loss.edges if self.loss else self.summed
        if self._corrected is None:
            return list(scores)
        times = [edge.costs[LATENCY] for edge in self._corrected.edges]
        return [
            Edge(e.tail, e.head, e.name, e.score, {**e.costs, LATENCY: time})
            for e, time in zip(scores, times, strict=True)
        ]

    def plans(
        self, budgets: Budgets, best: int = 1, apart: int = 1, fewer: bool = False
    ) -> list[Assembly]:
        """The ``best`` plans in order; with ``fewer``, all there are if they are not so many.

        Raises:
            ConfigError: a budget that cannot be kept, with what can; cuts with a gap; too few.
        """
        edges, limits = self.edges, {n: Budget(b.max, b.min) for n, b in budgets.items()}
        self._check(budgets, "budgets")
        try:
            found = assemblies(
                edges, IN, OUT, limits, fixed=self._offsets(), best=best, apart=apart
            )
        except (Infeasible, Disconnected) as error:
            raise ConfigError([Problem("budgets", str(error))]) from None
        if len(found) < best and not fewer:
            message = f"the budgets leave {len(found)} plans, ranks 0 to {len(found) - 1}"
            raise ConfigError([Problem("rank", message)])
        return found

    def front(self, cost: str, budgets: Budgets, points: int) -> list[Assembly]:
        """Plans that none beats in both score and ``cost``, the best score first.

        Raises:
            ConfigError: as :meth:`plans`.
        """
        limits = {n: Budget(b.max, b.min) for n, b in budgets.items()}
        self._check([cost, *budgets], "budgets")
        try:
            return front(self.edges, IN, OUT, cost, limits, fixed=self._offsets(), points=points)
        except (Infeasible, Disconnected) as error:
            raise ConfigError([Problem("budgets", str(error))]) from None

    def along(self, cost: str, share: float) -> Assembly:
        """The best plan within a share of the way from the least ``cost`` to the best score's.

        Raises:
            ConfigError: as :meth:`plans`.
        """
        high = self.plans({})[0].costs[cost]
        edges = [Edge(e.tail, e.head, e.name, e.costs[cost], e.costs) for e in self.edges]
        low = assemblies(edges, IN, OUT, {}, fixed=self._offsets())[0].costs[cost]
        return self.plans({cost: Limit(max=low + share * max(high - low, 0.0))})[0]

    def summed_over(self, path: Path) -> tuple[float, float | None]:
        """The plain sums of score and latency over an assembly."""
        taken = [self.summed[i] for i in path]
        times = [edge.costs.get(LATENCY) for edge in taken]
        known = [time for time in times if time is not None]
        total = math.fsum(known) if len(known) == len(taken) else None
        return math.fsum(edge.score for edge in taken), total

    def expected_loss(self, plan: Assembly) -> float | None:
        """Accuracy an assembly is expected to lose, where assemblies were measured; the line goes
        on where no accuracy is left."""
        return min(max(plan.score + self.loss.fixed, 0.0), 1.0) if self.loss else None

    def told(self) -> dict[str, Any]:
        """How far prediction and truth are apart, before and after, as JSON types.

        Of too few measured assemblies, only how many there are; of none, nothing.
        """
        if not self.measured:
            return {}
        both = {"score": self.loss, LATENCY: self.latency}
        found = {
            name: {
                "before": _numbers(each.before),
                "after": _numbers(each.after),
                "left_out": _numbers(each.left_out),
            }
            for name, each in both.items()
            if each is not None
        }
        return {"assemblies": len(self.measured), **found}

    def _offsets(self) -> dict[str, float]:
        return {**self.fixed, **({LATENCY: self._corrected.fixed} if self._corrected else {})}

    @property
    def _corrected(self) -> Calibrated | None:
        """The latencies' correction, where it helps."""
        return self.latency if self.latency and self.latency.helps else None

    def _check(self, costs: Sequence[str] | Budgets, place: str) -> None:
        known = set.intersection(*(set(edge.costs) for edge in self.summed))
        for cost in costs:
            if cost == LATENCY and cost not in known:
                message = (
                    f"the parts' {LATENCY} is not measured; give the entry that assembles "
                    "`latency: {}` or a budget of it, and launch"
                )
                raise ConfigError([Problem(place, message)])
            if cost not in known:
                raise ConfigError([Problem(place, unknown("cost", cost, sorted(known)))])


def estimate(pool: Pool, score: Score, records: Sequence[Record]) -> Estimate:
    """What is known of a pool's parts, and of assemblies of them among ``records``."""
    edges, measured = pool.edges(score), pool.paths(records)
    losses = {path: 1.0 - record.figures["val_accuracy"] for path, record in measured.items()}
    times = {
        path: record.figures[LATENCY]
        for path, record in measured.items()
        if LATENCY in record.figures and all(LATENCY in edges[i].costs for i in path)
    }
    loss = _loss(edges, losses) if len(losses) >= FEWEST else None
    latency = calibrated(edges, times, cost=LATENCY) if len(times) >= FEWEST else None
    return Estimate(tuple(edges), pool.fixed, measured, loss, latency)


def _loss(edges: Sequence[Edge], losses: Mapping[Path, float]) -> Calibrated:
    """One factor for all, or one for each kind of candidate where that ranks assemblies better
    that were left out of the fit: a plan is a choice, and a rank decides it."""
    alike, apart = calibrated(edges, losses), calibrated(edges, losses, kind=_candidate)
    return apart if apart.left_out.spearman > alike.left_out.spearman else alike


def _candidate(edge: Edge) -> str:
    """Candidates of one kind share a correction: ``3-5 ghost`` is a ghost."""
    return edge.name.partition(" ")[2] or edge.name


def _numbers(agreement: Any) -> dict[str, float | None]:
    """Without what is no number, which JSON has no word for."""
    return {k: v if math.isfinite(v) else None for k, v in asdict(agreement).items()}
