"""What a search came to: what the report, MLflow, ``best`` and the tables are made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from search.events import TrialState
from search.library.record import Record
from search.screened import Screened, judged


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
class Goal:
    """One figure of the student to drive up or down."""

    figure: str
    maximize: bool


@dataclass(frozen=True)
class Repeated:
    """One configuration over several seeds.

    ``role`` is ``trial N``, or what the best of them is held against: ``plain``, ``direct``,
    ``assembled``, ``scratch``, ``end to end``, ``uniform`` (see :mod:`search.baselines`).
    ``group`` is the value of ``run.repeats.of_each`` that it belongs to, with its path.
    """

    role: str
    seeds: tuple[int, ...]
    records: tuple[Record, ...]
    group: str = ""

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

    def best(self, goal: Goal) -> Record:
        """The record of the seed with the best value of a goal."""
        pick = max if goal.maximize else min
        return pick(self.records, key=lambda record: record.figures[goal.figure])

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


def measured(figures: Mapping[str, float]) -> dict[str, float]:
    """What was measured of a network on a device, and so is no part of its record."""
    return {name: value for name, value in figures.items() if name.startswith("latency")}


def with_measured(record: Record, known: Mapping[str, float]) -> Record:
    """The record with what was measured of its network elsewhere."""
    return record.model_copy(update={"figures": {**record.figures, **known}})


def winner(outcome: Outcome) -> Repeated | None:
    """The repeated trial with the best mean in the first goal; none if none was repeated."""
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
    return pick(found, key=lambda repeated: repeated.mean(goal.figure)) if found else None


def to_plain(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON types; records by key, since the library holds them."""
    screen = judged(outcome.trials, outcome.goals[0].figure)
    return {
        "name": outcome.name,
        "goals": [asdict(goal) for goal in outcome.goals],
        "repeats": [
            {
                "role": r.role,
                **({"group": r.group} if r.group else {}),
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
