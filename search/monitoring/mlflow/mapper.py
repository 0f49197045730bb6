"""The diary: what each event of a search means in MLflow."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from stillhouse.search.artifacts.record import Record
from stillhouse.search.experiment.setting_paths import told_apart
from stillhouse.search.monitoring.events import (
    Event,
    ScreenOff,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
    Warned,
)
from stillhouse.search.monitoring.mlflow import operations as op
from stillhouse.search.monitoring.mlflow.operations import SEARCH, stage_run, trial_run
from stillhouse.search.monitoring.mlflow.outbox import Operation
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.outcome import winner as winner_of
from stillhouse.search.results.screening import judged

_MOST_KEYS = 32
_LONGEST_FACT = 500
_ADDRESSES = ("tracking", "study")
_COSTS = ("parameters", "flops", "bytes", "latency_ms")
_STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
}


@dataclass
class _Reported:
    """What a trial has reported in this process: all steps, and the last one with its metrics."""

    steps: set[int] = field(default_factory=set)
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.add(step)
        self.step, self.metrics = step, metrics


class Diary:
    """Turns events into operations. It is fast: the search waits for it.

    ``facts`` about where the search runs (versions, device, git) become tags of its run.
    """

    def __init__(self, name: str, facts: Mapping[str, str]) -> None:
        self._name = name
        self._facts = dict(facts)
        self._search: Mapping[str, Any] = {}
        self._prefix = ""
        self._begun: set[str] = set()
        self._resumed = False
        self._reported: dict[int, _Reported] = {}
        self._shared: dict[str, set[str]] = {"made": set(), "reused": set()}
        self._datasets: set[str] = set()
        self._warned = 0

    def entries(self, event: Event) -> list[Operation]:
        """The operations for one event, in order."""
        at = now()
        match event:
            case SearchStarted():
                return self._search_started(event, at)
            case StageChanged():
                return self._stage_changed(event, at)
            case TrialWaiting():
                return []
            case TrialStarted():
                return self._trial_started(event, at)
            case TrialReported(number, epoch, metrics):
                self._reported.setdefault(number, _Reported()).add(epoch, metrics)
                return op.log(trial_run(number), at, metrics=_numbers(metrics), step=epoch)
            case TrialEnded():
                return self._trial_ended(event, at)
            case ScreenOff(reason):
                return op.log(SEARCH, at, tags={"stillhouse.screen": f"switched off: {reason}"})
            case Warned():
                self._warned += 1
                tags = {f"stillhouse.warning.{self._warned}": str(event)}
                return op.log(SEARCH, at, tags=tags)
            case SearchEnded(state, reason):
                tags = {"stillhouse.state": state, **_because(reason)}
                told = [op.end_others(at, "interrupted"), *op.log(SEARCH, at, tags=tags)]
                return [*told, op.end(SEARCH, at, _STATUS[state])]

    def summary(
        self, outcome: Outcome, files: Sequence[str], best: Mapping[str, float], winner: int | None
    ) -> list[Operation]:
        """What the search came to, on its own run."""
        at = now()
        metrics = {f"best.{name}": value for name, value in best.items()}
        metrics |= {"seconds": outcome.seconds}
        metrics |= {"stages.made": len(outcome.made), "stages.reused": len(outcome.reused)}
        states = Counter(trial.state for trial in outcome.trials)
        metrics |= {f"trials.{state}": count for state, count in states.items()}
        shares = outcome.importances.items()
        metrics |= {f"importance.{self._short(path)}": share for path, share in shares}
        metrics |= repeated(outcome) | screened(outcome)
        tags = {} if winner is None else {"stillhouse.winner": f"trial {winner}"}
        if chosen := winner_of(outcome):
            seed, record = outcome.representative(chosen)
            tags |= {"stillhouse.student": record.key, "stillhouse.student_seed": str(seed)}
        told = op.log(SEARCH, at, metrics=_numbers(metrics), tags=tags)
        return [*told, op.files(SEARCH, at, files)] if files else told

    def _search_started(self, event: SearchStarted, at: int) -> list[Operation]:
        told = {k: v for k, v in event.experiment.items() if k not in _ADDRESSES}
        told = json.loads(json.dumps(told, default=str))
        self._name, self._resumed = event.name, event.resumed
        self._search = told.get("search") or {}
        self._prefix = _common_prefix(self._search)
        tags = {**self._kind("search"), **_facts(self._facts), **_git(self._facts.get("git"))}
        written = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
        begun = [
            op.begin(SEARCH, at, event.name, tags),
            op.text(SEARCH, at, "experiment.yaml", written),
        ]
        if event.resumed:
            return begun  # MLflow's parameters never change; the file says what holds now
        settings = {k: v for k, v in told.items() if k not in ("name", "stages", "search")}
        searched = {f"search.{path}": v for path, v in (told.get("search") or {}).items()}
        return [*begun, *op.log(SEARCH, at, params=_flat(settings) | searched)]

    def _stage_changed(self, event: StageChanged, at: int) -> list[Operation]:
        match event.state:
            case "queued":
                return []
            case "running":
                # A stage that is there already reports once more when it is asked for again.
                there = self._shared["made"] | self._shared["reused"]
                return [] if event.key in there else self._begin_stage(event, at)
            case "reused":
                return [*self._complete(event, at), *self._count(event, at)]
        told = self._stage_ended(event, at)
        return told if event.state == "failed" else [*told, *self._count(event, at)]

    def _complete(self, event: StageChanged, at: int) -> list[Operation]:
        """A stage that another search made, or that was made while no driver listened: a run of
        it that was begun here, now or by an earlier launch, ends as it should."""
        run = stage_run(event.key)
        there = event.key in self._shared["made"] | self._shared["reused"]
        if run not in self._begun and (there or not self._resumed):
            return []
        return [op.complete(run, at, self._stage_ended(replace(event, state="made"), at))]

    def _stage_ended(self, event: StageChanged, at: int) -> list[Operation]:
        run = stage_run(event.key)
        told = self._begin_stage(event, at)
        self._begun.discard(run)
        if event.record:
            told += op.log(run, at, params=_flat(event.record.identity.get("work", {})))
            told += self._curve(run, at, event.record)
            told += self._recorded(run, at, event.record)
        parents = _joined(event.record.parents) if event.record else ""
        tags = {"stillhouse.state": event.state, **_because(event.reason)}
        told += op.log(run, at, tags={**tags, "stillhouse.parents": parents})
        return [*told, op.end(run, at, "FAILED" if event.state == "failed" else "FINISHED")]

    def _begin_stage(self, event: StageChanged, at: int) -> list[Operation]:
        run = stage_run(event.key)
        if run in self._begun:
            return []
        self._begun.add(run)
        tags = {**self._kind("stage"), "stillhouse.key": event.key, "stillhouse.label": event.label}
        return [op.begin(run, at, event.label, tags)]

    def _count(self, event: StageChanged, at: int) -> list[Operation]:
        """A shared stage was made or found: said on the search's run, once a launch."""
        made, counted = self._shared["made"], self._shared[event.state]
        if event.key in made or event.key in counted:
            return []
        counted.add(event.key)
        tags = {f"stillhouse.stage.{event.key[:12]}": f"{event.state} {event.label}"}
        return op.log(SEARCH, at, metrics={f"stages.{event.state}": len(counted)}, tags=tags)

    def _trial_started(self, event: TrialStarted, at: int) -> list[Operation]:
        run = trial_run(event.number)
        tags = {**self._kind("trial"), "stillhouse.number": event.number}
        named = list(event.keys.items())[:_MOST_KEYS]
        tags |= {f"stillhouse.key.{label}": key for label, key in named}
        *parents, own = event.keys.values() or ("",)
        tags |= {"stillhouse.key": own, "stillhouse.parents": _joined(parents)}
        values = told_apart(event.values, self._search)
        params = {self._short(path): value for path, value in values.items()}
        if len(params) < len(values):
            params = values
        costs = _numbers(event.costs)
        return [
            op.begin(run, at, f"trial {event.number}", tags),
            *op.log(run, at, params=params, metrics=costs, tags=_costs(costs)),
        ]

    def _trial_ended(self, event: TrialEnded, at: int) -> list[Operation]:
        run = trial_run(event.number)
        reported = self._reported.pop(event.number, _Reported())
        step = reported.step
        told: list[Operation] = []
        if event.record:
            # A student that was found reports its last epoch alone.
            told += self._curve(run, at, event.record, reported.steps)
            told += self._recorded(run, at, event.record)
            step = step or _last_step(event.record)
        final = {k: v for k, v in event.figures.items() if reported.metrics.get(k) != v}
        tags = {"stillhouse.state": event.state, **_costs(event.figures)}
        tags |= _because(event.reason)
        if event.state == "pruned":
            tags["stillhouse.stopped_by"] = event.reason or "scheduler"
        told += op.log(run, at, metrics=_numbers(final), step=step, tags=tags)
        return [*told, op.end(run, at, _STATUS[event.state])]

    def _curve(
        self, run: str, at: int, record: Record, but: Collection[int] = ()
    ) -> list[Operation]:
        """A point an epoch, ``but`` those; the last one has the figures of what was kept."""
        told: list[Operation] = []
        last = _last_step(record)
        for step, report in _steps(record):
            if step not in but:
                kept = {k: v for k, v in record.figures.items() if k in report and step == last}
                told += op.log(run, at, metrics=_numbers({**report, **kept}), step=step)
        return told

    def _recorded(self, run: str, at: int, record: Record) -> list[Operation]:
        """What a record says: key, where and how it was made, figures, costs, data."""
        tags = {
            **_facts(record.facts),
            **_git(record.facts.get("versions", {}).get("git")),
            **_costs(record.figures),
            "stillhouse.key": record.key,
            "stillhouse.made_at": record.made_at,
        }
        last = record.curve[-1] if record.curve else {}
        metrics = {k: v for k, v in record.figures.items() if k not in last}
        metrics |= {"seconds": record.seconds, "artifact_bytes": record.payload.size}
        told = op.log(run, at, metrics=_numbers(metrics), step=_last_step(record), tags=tags)
        return told + self._dataset(run, at, record)

    def _dataset(self, run: str, at: int, record: Record) -> list[Operation]:
        """The data it learned from; the search's run gets each data set once."""
        identity = record.identity.get("data")
        if not identity:
            return []
        about = record.facts.get("data", {})
        told = op.dataset(run, at, identity, about)
        if told["digest"] in self._datasets:
            return [told]
        self._datasets.add(told["digest"])
        return [told, op.dataset(SEARCH, at, identity, about)]

    def _kind(self, kind: str) -> dict[str, str]:
        return {"stillhouse.search": self._name, "stillhouse.kind": kind}

    def _short(self, path: str) -> str:
        return path.removeprefix(self._prefix)


def _steps(record: Record) -> list[tuple[int, Mapping[str, float]]]:
    """A record's reports, each with its epoch."""
    return [(int(told.get("epoch", i)), told) for i, told in enumerate(record.curve, 1)]


def _last_step(record: Record) -> int:
    return _steps(record)[-1][0] if record.curve else 0


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def _common_prefix(paths: Iterable[str]) -> str:
    """The dotted beginning that all searched paths share; it tells them apart from nothing."""
    parts = [path.split(".")[:-1] for path in paths]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(f"{names[0]}.")
    return "".join(shared)


def _flat(settings: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Nested settings by dotted path; what is None or empty says nothing."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{under}{name}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{path}.")
        elif value not in (None, [], ()):
            flat[path] = value
    return flat


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "epoch"}


def _costs(figures: Mapping[str, float]) -> dict[str, str]:
    return {f"stillhouse.{name}": f"{figures[name]:.12g}" for name in _COSTS if name in figures}


def _facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts short enough for a tag; ``data`` is told as the run's input."""
    told = {f"stillhouse.{k}": op.plain_text(v) for k, v in facts.items() if k != "data"}
    return {name: text for name, text in told.items() if len(text) <= _LONGEST_FACT}


def _joined(keys: Sequence[str]) -> str:
    return ",".join(keys[:100])


def _because(reason: str) -> dict[str, str]:
    return {"stillhouse.reason": reason} if reason else {}


def _git(revision: str | None) -> dict[str, str]:
    return {"mlflow.source.git.commit": revision} if revision not in (None, "unknown") else {}


def repeated(outcome: Outcome) -> dict[str, float]:
    """Mean and spread over seeds of the goals' figures."""
    metrics = {}
    for one in outcome.repeats:
        for figure in {goal.figure for goal in outcome.goals}:
            if one.records and all(figure in r.figures for r in one.records):
                name = f"repeats.{one.name.replace(',', '')}.{figure}"
                metrics[f"{name}.mean"] = one.mean(figure)
                metrics[f"{name}.spread"] = one.spread(figure)
    return metrics


def screened(outcome: Outcome) -> dict[str, float]:
    """How the screen ranked, and what it said of how many; nothing where there was none."""
    found = judged(outcome.trials, outcome.goals[0].figure)
    if found is None:
        return {}
    metrics = {f"screen.{said}": float(count) for said, count in found.counts.items()}
    metrics["screen.pairs"] = len(found.pairs)
    known = {} if math.isnan(found.spearman) else {"screen.spearman": found.spearman}
    return metrics | known
