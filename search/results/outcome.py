"""The results of a search as plain values, for the report, MLflow, ``best`` and the tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stillhouse.search.artifacts.record import Record
from stillhouse.search.core.metrics import DEVICE_METRICS
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.results.screening import ScreenDecision, screen_quality
from stillhouse.spaces.config.limits import Limit

TrialState = Literal["finished", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class TrialResult:
    """One trial, ended or not; ``reused`` if its student came from the library."""

    number: int
    state: TrialState | Literal["running"]
    values: Mapping[str, Any]
    stage_keys: Mapping[str, str]
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    feasible: bool = True
    reused: bool = False
    screen: ScreenDecision | None = None

    @property
    def student_key(self) -> str:
        """The key of its student, the last of its stages; "" where it has no stages."""
        return [*self.stage_keys.values()][-1] if self.stage_keys else ""


@dataclass(frozen=True)
class SeedRuns:
    """One configuration over several seeds.

    ``role`` is ``trial N``, or the name of a baseline: ``plain``, ``direct``, ``assembled``,
    ``scratch``, ``end to end``, ``uniform`` (see ``stillhouse.search.evaluation.baselines``).
    ``group`` is its value of ``run.repeats.of_each``, with the path. ``coincides_with`` names the
    baselines that are the same configuration, such as ``direct`` without assistants.
    """

    role: str
    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    group: str = ""
    coincides_with: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The role, preceded by the group if there are several."""
        return f"{self.group}: {self.role}" if self.group else self.role

    @property
    def is_trial(self) -> bool:
        """Whether it is the configuration of a trial, not a baseline."""
        return self.role.startswith("trial ")

    def values(self, metric: str) -> tuple[float, ...]:
        return tuple(record.figures[metric] for record in self.records)

    def mean(self, metric: str) -> float:
        return statistics.fmean(self.values(metric))

    def means(self) -> dict[str, float]:
        """The mean over the seeds of every metric that all seeds have."""
        shared = set.intersection(*(set(record.figures) for record in self.records))
        return {metric: self.mean(metric) for metric in sorted(shared)}

    def summary(self) -> dict[str, float]:
        """The means, the spreads that are not 0, and the number of seeds."""
        means = self.means()
        spreads = {f"{metric}.spread": self.spread(metric) for metric in means}
        varied = {name: spread for name, spread in spreads.items() if spread}
        return {**means, **varied, "seeds": float(len(self.seeds))}

    def limit_violations(self, limits: Mapping[str, Limit]) -> dict[str, float]:
        """Metric -> mean over the seeds, for each metric whose mean breaks its limit."""
        means = self.means()
        return {
            metric: means[metric]
            for metric, limit in limits.items()
            if metric in means and limit.violation(means[metric]) > 0
        }

    def representative(self, goal: Goal, limits: Mapping[str, Limit]) -> tuple[int, Record]:
        """The seed, with its record, that represents all seeds where one student is needed.

        It is the seed whose goal value is nearest to the mean, since the best seed overstates the
        configuration. Seeds that break a limit are skipped if others keep it. The lowest seed
        breaks ties.
        """
        candidates = list(zip(self.seeds, self.records, strict=True))
        within_limits = [
            (seed, record) for seed, record in candidates if _within_limits(record.figures, limits)
        ]
        mean = self.mean(goal.figure)
        return min(
            within_limits or candidates,
            key=lambda candidate: (abs(candidate[1].figures[goal.figure] - mean), candidate[0]),
        )

    def spread(self, metric: str) -> float:
        """Sample standard deviation over the seeds; 0 for a single seed."""
        values = self.values(metric)
        return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Outcome:
    """All results of a search.

    Attributes:
        records: key -> record of every artifact in the stage graphs.
        labels: key -> name of the stage.
        made_keys: shared stages that this launch built.
        reused_keys: shared stages that this launch found in the library.
        importances: searched path -> its share of the importance.
    """

    name: str
    goals: tuple[Goal, ...]
    trials: tuple[TrialResult, ...]
    seed_runs: tuple[SeedRuns, ...]
    records: Mapping[str, Record]
    labels: Mapping[str, str]
    made_keys: frozenset[str]
    reused_keys: frozenset[str]
    importances: Mapping[str, float]
    seconds: float
    test_accuracies: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Name of a repeated configuration -> test accuracy of each seed."""
    factorial: Mapping[str, Any] = field(default_factory=dict)
    """The ``factorial`` of the experiment, as plain data."""
    variances: Mapping[str, float] = field(default_factory=dict)
    """For a factorial: configuration -> variance of its predictions over the seeds."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """Metric of the student -> the allowed range of its mean over the seeds."""

    def representative(self, seed_runs: SeedRuns) -> tuple[int, Record]:
        """The seed and the student that represent a repeated configuration."""
        return seed_runs.representative(self.goals[0], self.limits)

    def trial_values(self, seed_runs: SeedRuns) -> Mapping[str, Any]:
        """The searched values of a repeated trial."""
        return next(t.values for t in self.trials if seed_runs.role == f"trial {t.number}")


def _within_limits(figures: Mapping[str, float], limits: Mapping[str, Limit]) -> bool:
    """Whether every known metric keeps its limit."""
    return all(limit.violation(figures[f]) <= 0 for f, limit in limits.items() if f in figures)


def device_metrics(figures: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are timed on a device, and so are not in a network's record."""
    return {name: value for name, value in figures.items() if name in DEVICE_METRICS}


def with_device_metrics(record: Record, metrics: Mapping[str, float]) -> Record:
    """The record with added metrics that were measured on a device."""
    return record.model_copy(update={"figures": {**record.figures, **metrics}})


def winner(outcome: Outcome) -> SeedRuns | None:
    """The repeated trial with the best mean of the first goal; None if none was repeated.

    It breaks a limit only if every repeated trial does.
    """
    return _best_of(outcome, [r for r in outcome.seed_runs if r.is_trial and r.records])


def winners_by_group(outcome: Outcome) -> dict[str, SeedRuns]:
    """Group -> its best repeated trial, chosen as by ``winner``."""
    by_group: dict[str, list[SeedRuns]] = {}
    for seed_runs in outcome.seed_runs:
        if seed_runs.is_trial and seed_runs.records:
            by_group.setdefault(seed_runs.group, []).append(seed_runs)
    best = {group: _best_of(outcome, candidates) for group, candidates in by_group.items()}
    return {group: seed_runs for group, seed_runs in best.items() if seed_runs}


def _best_of(outcome: Outcome, candidates: Sequence[SeedRuns]) -> SeedRuns | None:
    goal = outcome.goals[0]
    pick = max if goal.maximize else min
    within_limits = [
        seed_runs for seed_runs in candidates if not seed_runs.limit_violations(outcome.limits)
    ]
    return pick(
        within_limits or candidates, key=lambda candidate: candidate.mean(goal.figure), default=None
    )


def to_plain(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON types; records are given by key, since the library holds them."""
    quality = screen_quality(outcome.trials, outcome.goals[0].figure)
    winning_runs = winner(outcome)
    return {
        "name": outcome.name,
        "goals": [asdict(goal) for goal in outcome.goals],
        "limits": {metric: limit.plain() for metric, limit in outcome.limits.items()},
        **({"winner": _winner_to_dict(outcome, winning_runs)} if winning_runs else {}),
        "repeats": [
            {
                "role": r.role,
                **({"group": r.group} if r.group else {}),
                **({"also": list(r.coincides_with)} if r.coincides_with else {}),
                "seeds": list(r.seeds),
                "keys": [record.key for record in r.records],
                "measured": device_metrics(r.records[0].figures) if r.records else {},
            }
            for r in outcome.seed_runs
        ],
        "stages": sorted(outcome.records),
        "made": sorted(outcome.made_keys),
        "reused": sorted(outcome.reused_keys),
        "importances": dict(outcome.importances),
        "seconds": outcome.seconds,
        "tests": {role: list(values) for role, values in outcome.test_accuracies.items()},
        "variances": dict(outcome.variances),
        **({"screen": quality.plain()} if quality else {}),
    }


def _winner_to_dict(outcome: Outcome, winning_runs: SeedRuns) -> dict[str, Any]:
    """The winning configuration, its representative student, and its metrics over the seeds."""
    seed, record = outcome.representative(winning_runs)
    metrics = dict.fromkeys([goal.figure for goal in outcome.goals] + list(outcome.limits))
    available = [metric for metric in metrics if metric in winning_runs.means()]
    return {
        "role": winning_runs.role,
        "seed": seed,
        "key": record.key,
        "mean": {metric: winning_runs.mean(metric) for metric in available},
        "spread": {metric: winning_runs.spread(metric) for metric in available},
        "breaches": winning_runs.limit_violations(outcome.limits),
    }
