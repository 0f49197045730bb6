"""What a search came to: what the report, MLflow, ``best`` and the tables are made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from search.events import TrialState
from search.library.record import Record


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


@dataclass(frozen=True)
class Repeated:
    """One configuration over several seeds. ``role`` is ``trial N``, ``plain`` or ``direct``.

    ``plain`` is the same student taught by labels alone, ``direct`` the same student taught by
    the chain's first teacher without assistants.
    """

    role: str
    seeds: tuple[int, ...]
    records: tuple[Record, ...]

    def values(self, figure: str) -> tuple[float, ...]:
        return tuple(record.figures[figure] for record in self.records)

    def mean(self, figure: str) -> float:
        return statistics.fmean(self.values(figure))

    def spread(self, figure: str) -> float:
        """Sample standard deviation over the seeds; 0 for a single seed."""
        values = self.values(figure)
        return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Goal:
    """One figure of the student to drive up or down."""

    figure: str
    maximize: bool


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
    """Role of a repeated configuration -> accuracy on the test split, one value a seed."""


def measured(figures: Mapping[str, float]) -> dict[str, float]:
    """What was measured of a network on a device, and so is no part of its record."""
    return {name: value for name, value in figures.items() if name.startswith("latency")}


def with_measured(record: Record, known: Mapping[str, float]) -> Record:
    """The record with what was measured of its network elsewhere."""
    return record.model_copy(update={"figures": {**record.figures, **known}})


def winner(outcome: Outcome) -> Repeated | None:
    """The repeated trial with the best mean in the first goal; none if none was repeated."""
    goal = outcome.goals[0]
    found = [r for r in outcome.repeats if r.role.startswith("trial") and r.records]
    pick = max if goal.maximize else min
    return pick(found, key=lambda repeated: repeated.mean(goal.figure)) if found else None


def to_plain(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON types; records by key, since the library holds them."""
    return {
        "name": outcome.name,
        "goals": [asdict(goal) for goal in outcome.goals],
        "repeats": [
            {
                "role": r.role,
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
    }
