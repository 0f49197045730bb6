"""The assemblies of a search: their parts, the prediction and the measured result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.results.outcome import Outcome, TrialResult
from stillhouse.search.results.statistics import ranking

MAX_ASSEMBLIES = 6
"""Assemblies that are drawn."""
END_PARTS = ("stem", "head")
"""What every assembly takes over from its teacher."""


@dataclass(frozen=True)
class AssemblyPart:
    """The part of an assembly that replaces the teacher's blocks ``start`` .. ``stop`` - 1.

    ``enter`` and ``leave`` are shares of the teacher's channels at its ends; ``settings`` what
    sets a candidate apart from others of its kind; ``costs`` is empty where they are unknown.
    """

    kind: str
    settings: str
    start: int
    stop: int
    enter: float
    leave: float
    costs: Mapping[str, float]

    @property
    def position_text(self) -> str:
        """``3-5``, and the widths where one is narrow."""
        narrow = min(self.enter, self.leave) < 1.0
        return f"{self.start}-{self.stop}" + f" ({self.enter:g}-{self.leave:g})" * narrow

    @property
    def name(self) -> str:
        """The kind with its settings."""
        return f"{self.kind} {self.settings}".strip()


@dataclass(frozen=True)
class AssemblyResult:
    """An assembly with the finished trials that started from it, the best one first."""

    record: Record
    label: str
    trials: tuple[TrialResult, ...]
    students: tuple[Record, ...]

    @property
    def plan(self) -> Mapping[str, Any]:
        """How it was planned: ``score``, ``budgets``, ``rank``."""
        return self.record.settings

    @property
    def score(self) -> str:
        """The name of the score that the planner summed."""
        return str(self.plan.get("score", ""))

    def metric(self, name: str) -> float:
        """A metric of the assembly itself; NaN if unknown."""
        return self.record.figures.get(name, math.nan)

    @property
    def structure(self) -> tuple[str, ...]:
        """``1-2 kept``, ``2-4 ghost``, ...: two of the same teacher and parts are one network."""
        return *self.record.parents[:1], *self.record.assembly.chosen

    @property
    def is_calibration(self) -> bool:
        """Whether it was made to calibrate the cost model."""
        return self.plan.get("share") is not None

    @property
    def best_accuracy(self) -> float:
        """The best accuracy after fine-tuning; NaN if no trial started from it."""
        accuracies = [r.figures.get("val_accuracy", math.nan) for r in self.students]
        return max((value for value in accuracies if math.isfinite(value)), default=math.nan)

    def merged_with(self, other: AssemblyResult) -> AssemblyResult:
        """This assembly with the trials of another, as one assembly."""
        combined = self.trials + other.trials, self.students + other.students
        return replace(self, trials=combined[0], students=combined[1])

    @property
    def parts(self) -> list[AssemblyPart]:
        """From the stem to the head."""
        pieces = self.record.network.pieces if self.record.network else []
        assembly = self.record.assembly
        part_records = assembly.parts or _parts_from_pieces(pieces, assembly.chosen)
        kinds = {(p["start"], p["stop"]): str(p["block"]["kind"]) for p in pieces}
        return [
            _parse_part(part, kinds.get((part["start"], part["stop"]), "")) for part in part_records
        ]


def find_assemblies(outcome: Outcome) -> list[AssemblyResult]:
    """All assemblies, ordered by their best trial; then those without a trial, best first."""
    ranks = {trial.number: i for i, trial in enumerate(ranking(outcome))}
    worst_rank = len(ranks)
    labels = {key: label for trial in outcome.trials for label, key in trial.stage_keys.items()}
    trials_by_assembly: defaultdict[str, list[tuple[TrialResult, str]]] = defaultdict(list)
    for trial in outcome.trials:
        student = trial.student_key
        origin = _origin_assembly(student, outcome.records)
        if origin is not None and trial.state == "finished":
            trials_by_assembly[origin].append((trial, student))
    results = []
    for key, record in outcome.records.items():
        if record.kind == "assemble":
            trials = sorted(
                trials_by_assembly[key], key=lambda pair: ranks.get(pair[0].number, worst_rank)
            )
            students = tuple(outcome.records[s] for _, s in trials if s != key)
            label = labels.get(key, outcome.labels.get(key, record.name))
            results.append(
                AssemblyResult(record, label, tuple(trial for trial, _ in trials), students)
            )
    return sorted(results, key=lambda assembly: _sort_key(assembly, ranks, worst_rank))


def merge_equal(rows: Sequence[AssemblyResult]) -> list[AssemblyResult]:
    """Merge assemblies that are the same network, as under two budgets, with all their trials."""
    by_structure: dict[Any, AssemblyResult] = {}
    for row in rows:
        identity = row.structure, row.score, row.metric("val_accuracy")
        earlier = by_structure.get(identity)
        by_structure[identity] = earlier.merged_with(row) if earlier else row
    return list(by_structure.values())


def select_assemblies(outcome: Outcome) -> list[AssemblyResult]:
    """The best at most six: those of repeated trials and the best of each budget come first."""
    usable = [
        assembly
        for assembly in merge_equal(find_assemblies(outcome))
        if assembly.trials and assembly.parts
    ]
    roles = {r.role for r in outcome.seed_runs}
    seen_budgets, preferred = set[str](), list[AssemblyResult]()
    for assembly in usable:
        budgets = repr(assembly.plan.get("budgets"))
        if budgets not in seen_budgets or any(
            f"trial {t.number}" in roles for t in assembly.trials
        ):
            preferred.append(assembly)
        seen_budgets.add(budgets)
    selected = [*preferred, *(assembly for assembly in usable if assembly not in preferred)][
        :MAX_ASSEMBLIES
    ]
    return [assembly for assembly in usable if assembly in selected]


def _sort_key(
    assembly: AssemblyResult, ranks: Mapping[int, int], worst_rank: int
) -> tuple[int, float, str]:
    best_rank = (
        ranks.get(assembly.trials[0].number, worst_rank) if assembly.trials else worst_rank + 1
    )
    accuracy = assembly.metric("val_accuracy")
    return best_rank, math.inf if math.isnan(accuracy) else -accuracy, assembly.record.key


def _origin_assembly(key: str, stages: Mapping[str, Record]) -> str | None:
    """The key of the assembly that a network is, or goes on from; none where it is neither."""
    record = stages.get(key)
    while record and record.kind == "train" and record.parents:
        if record.settings.get("network") is not None:
            return None
        record = stages.get(record.parents[0])
    return record.key if record and record.kind == "assemble" else None


def _parts_from_pieces(pieces: Any, labels: Any) -> list[dict[str, Any]]:
    """Parts without scores and costs, for records that do not hold them."""
    if not pieces:
        return []
    first_piece, last_piece = pieces[0], pieces[-1]
    stem = {"start": 0, "stop": first_piece["start"], "enter": 1.0, "leave": first_piece["enter"]}
    end = last_piece["stop"]
    head = {"start": end, "stop": end + 1, "enter": last_piece["leave"], "leave": 1.0}
    inner = [{**piece, "name": name} for piece, name in zip(pieces, labels, strict=False)]
    return [{**stem, "name": "stem"}, *inner, {**head, "name": "head"}]


def _parse_part(part: Mapping[str, Any], kind: str) -> AssemblyPart:
    """``3-5 ghost-ratio4 0.5-1`` is a ghost with ratio 4."""
    words = str(part["name"]).split(" ")
    label = words[0] if words[0] in END_PARTS else words[min(1, len(words) - 1)]
    prefix, _, settings = label.partition("-")
    return AssemblyPart(
        kind or prefix,
        settings.replace("-", " ").replace("_", "."),
        int(part["start"]),
        int(part["stop"]),
        float(part["enter"]),
        float(part["leave"]),
        part.get("costs", {}),
    )
