"""What a search came to: what the report, MLflow, ``best`` and the tables are made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from stillhouse.search.artifacts.record import Record
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.results.screening import Screened, judged
from stillhouse.spaces.config.limits import Limit

TrialState = Literal["finished", "pruned", "failed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """One trial, ended or not; ``reused`` if its student was in the library already."""

    number: int
    state: TrialState | Literal["running"]
    values: Mapping[str, Any]
    keys: Mapping[str, str]
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    feasible: bool = True
    reused: bool = False
    screen: Screened | None = None


@dataclass(frozen=True)
class Repeated:
    """One configuration over several seeds.

    ``role`` is ``trial N``, or what the best of them is held against: ``plain``, ``direct``,
    ``assembled``, ``scratch``, ``end to end``, ``uniform`` (see
    :mod:`stillhouse.search.evaluation.baselines`). ``group`` is the value of
    ``run.repeats.of_each`` that it belongs to, with its path; ``also`` names the baselines that the
    best is itself, such as ``direct`` where it has no assistants.
    """

    role: str
    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    group: str = ""
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The role, behind its group where there are several."""
        return f"{self.group}: {self.role}" if self.group else self.role

    @property
    def tried(self) -> bool:
        """Whether it is a trial's configuration, and no baseline."""
        return self.role.startswith("trial ")

    def values(self, figure: str) -> tuple[float, ...]:
        return tuple(record.figures[figure] for record in self.records)

    def mean(self, figure: str) -> float:
        return statistics.fmean(self.values(figure))

    def means(self) -> dict[str, float]:
        """Every figure that all seeds have, as its mean over them."""
        shared = set.intersection(*(set(record.figures) for record in self.records))
        return {figure: self.mean(figure) for figure in sorted(shared)}

    def summary(self) -> dict[str, float]:
        """The means, beside each that varies its spread, and the number of seeds."""
        means = self.means()
        spreads = {f"{figure}.spread": self.spread(figure) for figure in means}
        varied = {name: spread for name, spread in spreads.items() if spread}
        return {**means, **varied, "seeds": float(len(self.seeds))}

    def breaches(self, limits: Mapping[str, Limit]) -> dict[str, float]:
        """Figure -> mean over the seeds, of the figures whose mean lies outside its limit."""
        means = self.means()
        return {
            f: means[f] for f, limit in limits.items() if f in means and limit.excess(means[f]) > 0
        }

    def representative(self, goal: Goal, limits: Mapping[str, Limit]) -> tuple[int, Record]:
        """The seed, with its record, that stands for all where one student is needed.

        It is the seed whose value of the goal is nearest to the mean: the best seed is a lucky
        one, and its figure promises too much. Seeds that break a limit themselves are passed over
        if others keep them; among equally near ones the lowest seed is taken.
        """
        both = list(zip(self.seeds, self.records, strict=True))
        sound = [(seed, record) for seed, record in both if _keeps(record.figures, limits)]
        mean = self.mean(goal.figure)
        return min(sound or both, key=lambda one: (abs(one[1].figures[goal.figure] - mean), one[0]))

    def spread(self, figure: str) -> float:
        """Sample standard deviation over the seeds; 0 for a single seed."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Outcome:
    """Everything a search came to.

    ``stages`` holds the record of every artifact in the recipes' graphs by key (teachers,
    assistants, students); ``labels`` what each is called; ``made`` and ``reused`` the keys of
    shared stages this launch made or found; ``importances`` each searched path's share.
    """

    name: str
    goals: tuple[Goal, ...]
    trials: tuple[Trial, ...]
    repeats: tuple[Repeated, ...]
    stages: Mapping[str, Record]
    labels: Mapping[str, str]
    made: frozenset[str]
    reused: frozenset[str]
    importances: Mapping[str, float]
    seconds: float
    tests: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Name of a repeated configuration -> accuracy on the test split, one value a seed."""
    factorial: Mapping[str, Any] = field(default_factory=dict)
    """The experiment's ``factorial``, as plain data."""
    variances: Mapping[str, float] = field(default_factory=dict)
    """Of a factorial: configuration -> variance of its predictions over the seeds."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """Figure of the student -> the range that its mean over the seeds must keep."""

    def representative(self, repeated: Repeated) -> tuple[int, Record]:
        """The seed and the student that a repeated configuration is shown and exported by."""
        return repeated.representative(self.goals[0], self.limits)

    def values(self, repeated: Repeated) -> Mapping[str, Any]:
        """The searched values of a trial that was repeated."""
        return next(t.values for t in self.trials if repeated.role == f"trial {t.number}")


def _keeps(figures: Mapping[str, float], limits: Mapping[str, Limit]) -> bool:
    """Whether no figure that is there lies outside its limit."""
    return all(limit.excess(figures[f]) <= 0 for f, limit in limits.items() if f in figures)


def measured(figures: Mapping[str, float]) -> dict[str, float]:
    """What was measured of a network on a device, and so is no part of its record."""
    return {name: value for name, value in figures.items() if name.startswith("latency")}


def with_measured(record: Record, known: Mapping[str, float]) -> Record:
    """The record with what was measured of its network elsewhere."""
    return record.model_copy(update={"figures": {**record.figures, **known}})


def winner(outcome: Outcome) -> Repeated | None:
    """The repeated trial with the best mean in the first goal; none if none was repeated.

    Only if no mean over the seeds keeps the limits it is one that breaks them.
    """
    return _best(outcome, [r for r in outcome.repeats if r.tried and r.records])


def winners(outcome: Outcome) -> dict[str, Repeated]:
    """Of each group the best repeated trial, as :func:`winner`."""
    found: dict[str, list[Repeated]] = {}
    for repeated in outcome.repeats:
        if repeated.tried and repeated.records:
            found.setdefault(repeated.group, []).append(repeated)
    best = {group: _best(outcome, some) for group, some in found.items()}
    return {group: repeated for group, repeated in best.items() if repeated}


def _best(outcome: Outcome, found: Sequence[Repeated]) -> Repeated | None:
    goal = outcome.goals[0]
    pick = max if goal.maximize else min
    sound = [repeated for repeated in found if not repeated.breaches(outcome.limits)]
    return pick(sound or found, key=lambda one: one.mean(goal.figure), default=None)


def to_plain(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON types; records by key, since the library holds them."""
    screen = judged(outcome.trials, outcome.goals[0].figure)
    best = winner(outcome)
    return {
        "name": outcome.name,
        "goals": [asdict(goal) for goal in outcome.goals],
        "limits": {figure: limit.plain() for figure, limit in outcome.limits.items()},
        **({"winner": _winner(outcome, best)} if best else {}),
        "repeats": [
            {
                "role": r.role,
                **({"group": r.group} if r.group else {}),
                **({"also": list(r.also)} if r.also else {}),
                "seeds": list(r.seeds),
                "keys": [record.key for record in r.records],
                "measured": measured(r.records[0].figures) if r.records else {},
            }
            for r in outcome.repeats
        ],
        "stages": sorted(outcome.stages),
        "made": sorted(outcome.made),
        "reused": sorted(outcome.reused),
        "importances": dict(outcome.importances),
        "seconds": outcome.seconds,
        "tests": {role: list(values) for role, values in outcome.tests.items()},
        "variances": dict(outcome.variances),
        **({"screen": screen.plain()} if screen else {}),
    }


def _winner(outcome: Outcome, best: Repeated) -> dict[str, Any]:
    """Which configuration won, which student stands for it, and how good it is over the seeds."""
    seed, record = outcome.representative(best)
    figures = dict.fromkeys([goal.figure for goal in outcome.goals] + list(outcome.limits))
    known = [figure for figure in figures if figure in best.means()]
    return {
        "role": best.role,
        "seed": seed,
        "key": record.key,
        "mean": {figure: best.mean(figure) for figure in known},
        "spread": {figure: best.spread(figure) for figure in known},
        "breaches": best.breaches(outcome.limits),
    }
