"""The status of a search, computed from its events so far."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.events import (
    Event,
    RequiredStage,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
    WarningIssued,
)

MAX_MESSAGES = 20
"""Number of failures, and of warnings, that are kept: the last ones."""


@dataclass
class RunningTrial:
    """A trial on a worker; ``value`` is that of the first goal after ``epoch``."""

    number: int
    values: Mapping[str, Any]
    epoch: int = 0
    value: float | None = None


@dataclass
class SearchStatus:
    """An observer that keeps the current status.

    ``open_stages`` maps the key of each queued or running stage to its last event,
    ``waiting_trials`` each trial that waits to the stages it needs. ``best`` is (value of the first
    goal, trial).
    """

    experiment: Experiment
    name: str = ""
    state: str = "running"
    reason: str = ""
    total: int = 0
    num_ended_before: int = 0
    launched_at: float = field(default_factory=time.time)
    last_event_at: float = field(default_factory=time.time)
    running_trials: dict[int, RunningTrial] = field(default_factory=dict)
    waiting_trials: dict[int, tuple[RequiredStage, ...]] = field(default_factory=dict)
    open_stages: dict[str, StageChanged] = field(default_factory=dict)
    ended_counts: dict[str, int] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    num_made: int = 0
    num_reused: int = 0
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _required_stages: dict[int, tuple[RequiredStage, ...]] = field(default_factory=dict)
    _available_keys: set[str] = field(default_factory=set)
    _failed_keys: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.total = self.total or self.experiment.trials

    @property
    def goal_metric(self) -> str:
        """The metric of the first goal."""
        return self.experiment.goals[0].figure

    @property
    def num_ended(self) -> int:
        """Number of trials that have ended."""
        return sum(self.ended_counts.values())

    def __call__(self, event: Event) -> None:
        self.last_event_at = time.time()
        match event:
            case SearchStarted():
                self.name, self.total = event.name, event.num_trials
                self.ended_counts, self.best = dict(event.ended_counts), event.best
                self.num_ended_before = self.num_ended
            case StageChanged():
                self._on_stage_changed(event)
            case TrialWaiting():
                self.waiting_trials[event.number] = self._required_stages[event.number] = (
                    event.stages
                )
            case TrialStarted():
                self.waiting_trials.pop(event.number, None)
                self.running_trials[event.number] = RunningTrial(event.number, event.values)
            case TrialReported():
                if event.number in self.running_trials:
                    trial = self.running_trials[event.number]
                    trial.epoch, trial.value = event.epoch, event.metrics.get(self.goal_metric)
            case TrialEnded():
                self._on_trial_ended(event)
            case WarningIssued():
                self.warnings = [*self.warnings, str(event)][-MAX_MESSAGES:]
            case SearchEnded():
                self.state, self.reason = event.state, event.reason
                for collection in (
                    self.running_trials,
                    self.waiting_trials,
                    self.open_stages,
                    self._required_stages,
                ):
                    collection.clear()  # nothing runs any more

    def seconds_left(self) -> float | None:
        """Estimate from the trials that ended in this launch; None before the first of them."""
        ended_in_launch = self.num_ended - self.num_ended_before
        if ended_in_launch <= 0 or self.num_ended >= self.total:
            return None
        return (time.time() - self.launched_at) / ended_in_launch * (self.total - self.num_ended)

    def missing_stages(self, number: int) -> list[RequiredStage]:
        """The stages that a trial waits for, before it has a slot or in its slot."""
        return [
            s for s in self._required_stages.get(number, ()) if s.key not in self._available_keys
        ]

    def blocked_stages(self) -> dict[str, tuple[str, list[str]]]:
        """Stages that wait for others: key -> label, and the labels of these others."""
        required = {s.key: s for stages in self._required_stages.values() for s in stages}
        return {
            key: (
                stage.label,
                [required[p].label for p in self._unavailable_keys(stage.parents) if p in required],
            )
            for key, stage in required.items()
            if key not in self._available_keys | self._failed_keys and key not in self.open_stages
        }

    def plain(self, max_rows: int) -> dict[str, Any]:
        """Trials, stages, failures and warnings as JSON types, at most ``max_rows`` rows a list."""
        return {
            "goal": self.goal_metric,
            "trials": self._trials_to_dict(max_rows),
            "stages": self._stages_to_dict(max_rows),
            "failures": list(self.failures),
            "warnings": list(self.warnings),
        }

    def _trials_to_dict(self, max_rows: int) -> dict[str, Any]:
        running = [
            {
                "number": t.number,
                "epoch": t.epoch,
                "value": t.value,
                "values": dict(t.values),
                "for": [s.label for s in self.missing_stages(t.number)],
            }
            for t in self.running_trials.values()
        ]
        waiting = [
            {"number": number, "for": [s.label for s in self.missing_stages(number)]}
            for number in self.waiting_trials
        ]
        return {
            "of": self.total,
            "ended": dict(self.ended_counts),
            "best": {"trial": self.best[1], "value": self.best[0]} if self.best else None,
            "running": running[:max_rows],
            "waiting": waiting[:max_rows],
        }

    def _stages_to_dict(self, max_rows: int) -> dict[str, Any]:
        stages = sorted(self.open_stages.values(), key=lambda stage: stage.state != "running")
        blocked = [
            {"label": label, "key": key[:12], "state": "waiting", "for": parents}
            for key, (label, parents) in self.blocked_stages().items()
        ]
        return {
            "made": self.num_made,
            "reused": self.num_reused,
            "running": sum(stage.state == "running" for stage in stages),
            "queued": sum(stage.state == "queued" for stage in stages),
            "waiting": len(blocked),
            "failed": len(self._failed_keys),
            "open": [_stage_row(stage) for stage in stages[:max_rows]],
            "unborn": blocked[:max_rows],
        }

    def _unavailable_keys(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if key not in self._available_keys]

    def _on_stage_changed(self, event: StageChanged) -> None:
        if event.state in ("queued", "running"):
            if event.key not in self._available_keys:  # else its end is announced again
                self.open_stages[event.key] = event
            return
        self.open_stages.pop(event.key, None)
        self.num_made += event.state == "made"
        self.num_reused += event.state == "reused"
        if event.state == "failed":
            self._failed_keys.add(event.key)
            self._add_failure(f"stage {event.label}: {event.reason}")
        else:
            self._failed_keys.discard(event.key)
            self._available_keys.add(event.key)

    def _on_trial_ended(self, event: TrialEnded) -> None:
        self.running_trials.pop(event.number, None)
        self.waiting_trials.pop(event.number, None)
        self._required_stages.pop(event.number, None)
        self.ended_counts[event.state] = self.ended_counts.get(event.state, 0) + 1
        if event.state == "failed":
            self._add_failure(f"trial {event.number}: {event.reason}")
        value = event.figures.get(self.goal_metric)
        if event.state == "finished" and value is not None and self._within_limits(event.figures):
            maximize = self.experiment.goals[0].maximize
            if self.best is None or (value > self.best[0]) == maximize:
                self.best = (value, event.number)

    def _within_limits(self, figures: Mapping[str, float]) -> bool:
        limits = self.experiment.limits.items()
        return all(limit.violation(figures.get(name, float("inf"))) <= 0 for name, limit in limits)

    def _add_failure(self, message: str) -> None:
        self.failures = [*self.failures, message][-MAX_MESSAGES:]


def _stage_row(stage: StageChanged) -> dict[str, Any]:
    """A queued or running stage as JSON types."""
    return {
        "label": stage.label,
        "key": stage.key[:12],
        "state": stage.state,
        "epoch": stage.epoch,
        "epochs": stage.epochs,
        "node": stage.node,
        "in_trial": stage.in_trial,
    }
