"""The assemblies of a search: what each is made of, what was predicted of it and what came."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.results.outcome import Outcome, Trial
from stillhouse.search.results.statistics import ranking

MOST = 6
"""Assemblies that are drawn."""
ENDS = ("stem", "head")
"""What every assembly takes over from its teacher."""


@dataclass(frozen=True)
class Part:
    """What stands for the teacher's blocks ``start`` .. ``stop`` - 1 in an assembly.

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
    def place(self) -> str:
        """``3-5``, and the widths where one is narrow."""
        narrow = min(self.enter, self.leave) < 1.0
        return f"{self.start}-{self.stop}" + f" ({self.enter:g}-{self.leave:g})" * narrow

    @property
    def name(self) -> str:
        """The kind with its settings."""
        return f"{self.kind} {self.settings}".strip()


@dataclass(frozen=True)
class Assembled:
    """An assembly with the finished trials whose students went on from it, the best one first."""

    record: Record
    label: str
    trials: tuple[Trial, ...]
    students: tuple[Record, ...]

    @property
    def work(self) -> Mapping[str, Any]:
        """How it was planned: ``score``, ``budgets``, ``rank``."""
        told: Mapping[str, Any] = self.record.identity.get("work", {})
        return told

    @property
    def score(self) -> str:
        """What the planner added up."""
        return str(self.work.get("score", ""))

    def figure(self, figure: str) -> float:
        """A figure of the assembly itself, else not a number."""
        return self.record.figures.get(figure, math.nan)

    @property
    def structure(self) -> tuple[str, ...]:
        """``1-2 kept``, ``2-4 ghost``, ...: two of the same teacher and parts are one network."""
        return *self.record.parents[:1], *self.record.facts.get("chosen", ())

    @property
    def first(self) -> bool:
        """Whether it was made first, for others to be calibrated by."""
        return self.work.get("share") is not None

    @property
    def reached(self) -> float:
        """The best accuracy after fine-tuning; not a number where nothing went on from it."""
        found = [r.figures.get("val_accuracy", math.nan) for r in self.students]
        return max((value for value in found if math.isfinite(value)), default=math.nan)

    def joined(self, other: Assembled) -> Assembled:
        """With what went on from another, as one assembly."""
        both = self.trials + other.trials, self.students + other.students
        return replace(self, trials=both[0], students=both[1])

    @property
    def parts(self) -> list[Part]:
        """From the stem to the head."""
        facts = self.record.facts
        pieces = facts.get("assembly", {}).get("pieces", ())
        told = facts.get("parts") or _between_ends(pieces, facts.get("chosen", ()))
        kinds = {(p["start"], p["stop"]): str(p["block"]["kind"]) for p in pieces}
        return [_part(part, kinds.get((part["start"], part["stop"]), "")) for part in told]


def assembled(outcome: Outcome) -> list[Assembled]:
    """All assemblies: by the best trial each led to, then those that led to none, best first."""
    place = {trial.number: i for i, trial in enumerate(ranking(outcome))}
    last = len(place)
    labels = {key: label for trial in outcome.trials for label, key in trial.keys.items()}
    led: defaultdict[str, list[tuple[Trial, str]]] = defaultdict(list)
    for trial in outcome.trials:
        student = list(trial.keys.values())[-1] if trial.keys else ""
        origin = _origin(student, outcome.stages)
        if origin is not None and trial.state == "finished":
            led[origin].append((trial, student))
    found = []
    for key, record in outcome.stages.items():
        if record.kind == "assemble":
            own = sorted(led[key], key=lambda pair: place.get(pair[0].number, last))
            students = tuple(outcome.stages[s] for _, s in own if s != key)
            label = labels.get(key, outcome.labels.get(key, record.name))
            found.append(Assembled(record, label, tuple(trial for trial, _ in own), students))
    return sorted(found, key=lambda one: _order(one, place, last))


def distinct(rows: Sequence[Assembled]) -> list[Assembled]:
    """One of those that are the same network, as under two budgets, with the trials of all."""
    found: dict[Any, Assembled] = {}
    for row in rows:
        same = row.structure, row.score, row.figure("val_accuracy")
        known = found.get(same)
        found[same] = known.joined(row) if known else row
    return list(found.values())


def chosen(outcome: Outcome) -> list[Assembled]:
    """The best at most six: those of repeated trials and the best of each budget come first."""
    able = [one for one in distinct(assembled(outcome)) if one.trials and one.parts]
    repeated = {r.role for r in outcome.repeats}
    seen, first = set[str](), list[Assembled]()
    for one in able:
        budgets = repr(one.work.get("budgets"))
        if budgets not in seen or any(f"trial {t.number}" in repeated for t in one.trials):
            first.append(one)
        seen.add(budgets)
    wanted = [*first, *(one for one in able if one not in first)][:MOST]
    return [one for one in able if one in wanted]


def _order(one: Assembled, place: Mapping[int, int], last: int) -> tuple[int, float, str]:
    best = place.get(one.trials[0].number, last) if one.trials else last + 1
    accuracy = one.figure("val_accuracy")
    return best, math.inf if math.isnan(accuracy) else -accuracy, one.record.key


def _origin(key: str, stages: Mapping[str, Record]) -> str | None:
    """The key of the assembly that a network is, or goes on from; none where it is neither."""
    record = stages.get(key)
    while record and record.kind == "train" and record.parents:
        if record.identity.get("work", {}).get("network") is not None:
            return None
        record = stages.get(record.parents[0])
    return record.key if record and record.kind == "assemble" else None


def _between_ends(pieces: Any, names: Any) -> list[dict[str, Any]]:
    """Parts without scores and costs, for records that do not tell them."""
    if not pieces:
        return []
    first, last = pieces[0], pieces[-1]
    stem = {"start": 0, "stop": first["start"], "enter": 1.0, "leave": first["enter"]}
    end = last["stop"]
    head = {"start": end, "stop": end + 1, "enter": last["leave"], "leave": 1.0}
    inner = [{**piece, "name": name} for piece, name in zip(pieces, names, strict=False)]
    return [{**stem, "name": "stem"}, *inner, {**head, "name": "head"}]


def _part(told: Mapping[str, Any], kind: str) -> Part:
    """``3-5 ghost-ratio4 0.5-1`` is a ghost with ratio 4."""
    words = str(told["name"]).split(" ")
    label = words[0] if words[0] in ENDS else words[min(1, len(words) - 1)]
    own, _, settings = label.partition("-")
    return Part(
        kind or own,
        settings.replace("-", " ").replace("_", "."),
        int(told["start"]),
        int(told["stop"]),
        float(told["enter"]),
        float(told["leave"]),
        told.get("costs", {}),
    )
