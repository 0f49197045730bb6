"""How a search stands: its events so far, folded into what people ask for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.events import (
    Event,
    Needed,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
    Warned,
)

MOST = 20
"""Failures, and warnings, that are kept with their reasons: the last ones."""


@dataclass
class Running:
    """A trial on a worker; ``value`` of the first goal after ``epoch``."""

    number: int
    values: Mapping[str, Any]
    epoch: int = 0
    value: float | None = None


@dataclass
class Standing:
    """An observer that others look at.

    ``stages`` are those on their way, by key: queued or running. ``waiting`` maps a trial that is
    decided to what it rests on. ``best`` is (value of the first goal, trial).
    """

    experiment: Experiment
    name: str = ""
    state: str = "running"
    reason: str = ""
    total: int = 0
    earlier: int = 0
    since: float = field(default_factory=time.time)
    heard: float = field(default_factory=time.time)
    running: dict[int, Running] = field(default_factory=dict)
    waiting: dict[int, tuple[Needed, ...]] = field(default_factory=dict)
    stages: dict[str, StageChanged] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    made: int = 0
    reused: int = 0
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _needs: dict[int, tuple[Needed, ...]] = field(default_factory=dict)
    _there: set[str] = field(default_factory=set)
    _failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.total = self.total or self.experiment.trials

    @property
    def figure(self) -> str:
        """The first goal's."""
        return self.experiment.goals[0].figure

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(self.ended.values())

    def __call__(self, event: Event) -> None:
        self.heard = time.time()
        match event:
            case SearchStarted():
                self.name, self.total = event.name, event.trials
                self.ended, self.best = dict(event.ended), event.best
                self.earlier = self.done
            case StageChanged():
                self._stage(event)
            case TrialWaiting():
                self.waiting[event.number] = self._needs[event.number] = event.stages
            case TrialStarted():
                self.waiting.pop(event.number, None)
                self.running[event.number] = Running(event.number, event.values)
            case TrialReported():
                if event.number in self.running:
                    trial = self.running[event.number]
                    trial.epoch, trial.value = event.epoch, event.metrics.get(self.figure)
            case TrialEnded():
                self._trial_ended(event)
            case Warned():
                self.warnings = [*self.warnings, str(event)][-MOST:]
            case SearchEnded():
                self.state, self.reason = event.state, event.reason
                for open_ones in (self.running, self.waiting, self.stages, self._needs):
                    open_ones.clear()  # nothing runs any more, whatever was on its way

    def seconds_left(self) -> float | None:
        """Until the last trial, judged by those that ended in this launch; None before any did."""
        here = self.done - self.earlier
        if here <= 0 or self.done >= self.total:
            return None
        return (time.time() - self.since) / here * (self.total - self.done)

    def missing(self, number: int) -> list[Needed]:
        """What a trial waits for, before it has a slot or in its slot."""
        return [s for s in self._needs.get(number, ()) if s.key not in self._there]

    def unborn(self) -> dict[str, tuple[str, list[str]]]:
        """Stages that wait for others: key -> label, and the labels of those they wait for."""
        needed = {s.key: s for some in self._needs.values() for s in some}
        return {
            key: (stage.label, [needed[p].label for p in self._open(stage.parents) if p in needed])
            for key, stage in needed.items()
            if key not in self._there | self._failed and key not in self.stages
        }

    def plain(self, most: int) -> dict[str, Any]:
        """Trials, stages, failures and warnings as JSON types, ``most`` rows of each list."""
        return {
            "goal": self.figure,
            "trials": self._plain_trials(most),
            "stages": self._plain_stages(most),
            "failures": list(self.failures),
            "warnings": list(self.warnings),
        }

    def _plain_trials(self, most: int) -> dict[str, Any]:
        running = [
            {
                "number": t.number,
                "epoch": t.epoch,
                "value": t.value,
                "values": dict(t.values),
                "for": [s.label for s in self.missing(t.number)],
            }
            for t in self.running.values()
        ]
        waiting = [
            {"number": number, "for": [s.label for s in self.missing(number)]}
            for number in self.waiting
        ]
        return {
            "of": self.total,
            "ended": dict(self.ended),
            "best": {"trial": self.best[1], "value": self.best[0]} if self.best else None,
            "running": running[:most],
            "waiting": waiting[:most],
        }

    def _plain_stages(self, most: int) -> dict[str, Any]:
        stages = sorted(self.stages.values(), key=lambda stage: stage.state != "running")
        unborn = [
            {"label": label, "key": key[:12], "state": "waiting", "for": parents}
            for key, (label, parents) in self.unborn().items()
        ]
        return {
            "made": self.made,
            "reused": self.reused,
            "running": sum(stage.state == "running" for stage in stages),
            "queued": sum(stage.state == "queued" for stage in stages),
            "waiting": len(unborn),
            "failed": len(self._failed),
            "open": [_row(stage) for stage in stages[:most]],
            "unborn": unborn[:most],
        }

    def _open(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if key not in self._there]

    def _stage(self, event: StageChanged) -> None:
        if event.state in ("queued", "running"):
            if event.key not in self._there:  # else it only says again how it ended
                self.stages[event.key] = event
            return
        self.stages.pop(event.key, None)
        self.made += event.state == "made"
        self.reused += event.state == "reused"
        if event.state == "failed":
            self._failed.add(event.key)
            self._fail(f"stage {event.label}: {event.reason}")
        else:
            self._failed.discard(event.key)
            self._there.add(event.key)

    def _trial_ended(self, event: TrialEnded) -> None:
        self.running.pop(event.number, None)
        self.waiting.pop(event.number, None)
        self._needs.pop(event.number, None)
        self.ended[event.state] = self.ended.get(event.state, 0) + 1
        if event.state == "failed":
            self._fail(f"trial {event.number}: {event.reason}")
        value = event.figures.get(self.figure)
        if event.state == "finished" and value is not None and self._keeps_limits(event.figures):
            up = self.experiment.goals[0].maximize
            if self.best is None or (value > self.best[0]) == up:
                self.best = (value, event.number)

    def _keeps_limits(self, figures: Mapping[str, float]) -> bool:
        limits = self.experiment.limits.items()
        return all(limit.excess(figures.get(name, float("inf"))) <= 0 for name, limit in limits)

    def _fail(self, line: str) -> None:
        self.failures = [*self.failures, line][-MOST:]


def _row(stage: StageChanged) -> dict[str, Any]:
    """A stage on its way as JSON types."""
    return {
        "label": stage.label,
        "key": stage.key[:12],
        "state": stage.state,
        "epoch": stage.epoch,
        "epochs": stage.epochs,
        "node": stage.node,
        "in_trial": stage.in_trial,
    }
