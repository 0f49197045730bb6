"""Maps each event of a search to operations on MLflow's runs."""

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
from stillhouse.search.core.metrics import COST_METRICS
from stillhouse.search.experiment.setting_paths import split_compositions
from stillhouse.search.monitoring.events import (
    Event,
    ScreenDisabled,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
    WarningIssued,
)
from stillhouse.search.monitoring.mlflow import operations as op
from stillhouse.search.monitoring.mlflow.operations import SEARCH_RUN, stage_run, trial_run
from stillhouse.search.monitoring.mlflow.outbox import OutboxEntry
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.outcome import winner as winner_of
from stillhouse.search.results.screening import screen_quality

_MAX_KEYS = 32
_MAX_FACT_LETTERS = 500
_ADDRESS_FIELDS = ("tracking", "study")
_MLFLOW_STATUS = {
    "finished": "FINISHED",
    "failed": "FAILED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
}


@dataclass
class _ReportedSteps:
    """The steps that a trial reported in this process, and the metrics of the last one."""

    steps: set[int] = field(default_factory=set)
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.add(step)
        self.step, self.metrics = step, metrics


class MlflowMapper:
    """Turns events into operations. It must be fast, since the search waits for it.

    ``environment`` (versions, device, git) becomes tags of the search's run.
    """

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self._name = name
        self._environment = dict(environment)
        self._search_space: Mapping[str, Any] = {}
        self._prefix = ""
        self._begun_runs: set[str] = set()
        self._resumed = False
        self._reported_steps: dict[int, _ReportedSteps] = {}
        self._counted_keys: dict[str, set[str]] = {"made": set(), "reused": set()}
        self._dataset_digests: set[str] = set()
        self._num_warnings = 0

    def entries(self, event: Event) -> list[OutboxEntry]:
        """The operations for one event, in their order."""
        at = now_ms()
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
                self._reported_steps.setdefault(number, _ReportedSteps()).add(epoch, metrics)
                return op.log(trial_run(number), at, metrics=_without_epoch(metrics), step=epoch)
            case TrialEnded():
                return self._trial_ended(event, at)
            case ScreenDisabled(reason):
                return op.log(SEARCH_RUN, at, tags={"stillhouse.screen": f"switched off: {reason}"})
            case WarningIssued():
                self._num_warnings += 1
                tags = {f"stillhouse.warning.{self._num_warnings}": str(event)}
                return op.log(SEARCH_RUN, at, tags=tags)
            case SearchEnded(state, reason):
                tags = {"stillhouse.state": state, **_reason_tag(reason)}
                entries = [op.end_others(at, "interrupted"), *op.log(SEARCH_RUN, at, tags=tags)]
                return [*entries, op.end(SEARCH_RUN, at, _MLFLOW_STATUS[state])]

    def summary(
        self,
        outcome: Outcome,
        files: Sequence[str],
        best_metrics: Mapping[str, float],
        winning_trial: int | None,
    ) -> list[OutboxEntry]:
        """The results of the search, on its own run."""
        at = now_ms()
        metrics = {f"best.{name}": value for name, value in best_metrics.items()}
        metrics |= {
            "seconds": outcome.seconds,
            "stages.made": len(outcome.made_keys),
            "stages.reused": len(outcome.reused_keys),
        }
        states = Counter(trial.state for trial in outcome.trials)
        metrics |= {f"trials.{state}": count for state, count in states.items()}
        shares = outcome.importances.items()
        metrics |= {f"importance.{self._short_path(path)}": share for path, share in shares}
        metrics |= seed_run_metrics(outcome) | screen_metrics(outcome)
        tags = {} if winning_trial is None else {"stillhouse.winner": f"trial {winning_trial}"}
        if winning_runs := winner_of(outcome):
            seed, record = outcome.representative(winning_runs)
            tags |= {"stillhouse.student": record.key, "stillhouse.student_seed": str(seed)}
        entries = op.log(SEARCH_RUN, at, metrics=_without_epoch(metrics), tags=tags)
        return [*entries, op.files(SEARCH_RUN, at, files)] if files else entries

    def _search_started(self, event: SearchStarted, at: int) -> list[OutboxEntry]:
        experiment = {k: v for k, v in event.experiment.items() if k not in _ADDRESS_FIELDS}
        experiment = json.loads(json.dumps(experiment, default=str))
        self._name, self._resumed = event.name, event.resumed
        self._search_space = experiment.get("search") or {}
        self._prefix = _common_prefix(self._search_space)
        tags = {
            **self._kind_tags("search"),
            **_fact_tags(self._environment),
            **_git_tag(self._environment.get("git")),
        }
        yaml_text = yaml.safe_dump(experiment, sort_keys=False, allow_unicode=True)
        entries = [
            op.begin(SEARCH_RUN, at, event.name, tags),
            op.text(SEARCH_RUN, at, "experiment.yaml", yaml_text),
        ]
        if event.resumed:
            return entries  # MLflow's parameters never change; the file has the current settings
        settings = {k: v for k, v in experiment.items() if k not in ("name", "stages", "search")}
        searched = {f"search.{path}": v for path, v in (experiment.get("search") or {}).items()}
        return [*entries, *op.log(SEARCH_RUN, at, params=_flatten(settings) | searched)]

    def _stage_changed(self, event: StageChanged, at: int) -> list[OutboxEntry]:
        match event.state:
            case "queued":
                return []
            case "running":
                # A stage that exists already reports once more when it is requested again.
                return [] if self._is_counted(event.key) else self._begin_stage(event, at)
            case "reused":
                return [*self._complete_stage(event, at), *self._count_stage(event, at)]
        entries = self._stage_ended(event, at)
        return entries if event.state == "failed" else [*entries, *self._count_stage(event, at)]

    def _complete_stage(self, event: StageChanged, at: int) -> list[OutboxEntry]:
        """End the run of a stage that was begun here and built elsewhere.

        Another search built the stage, or workers did while no driver was running.
        """
        run = stage_run(event.key)
        if run not in self._begun_runs and (self._is_counted(event.key) or not self._resumed):
            return []
        return [op.complete_run(run, at, self._stage_ended(replace(event, state="made"), at))]

    def _stage_ended(self, event: StageChanged, at: int) -> list[OutboxEntry]:
        run = stage_run(event.key)
        entries = self._begin_stage(event, at)
        self._begun_runs.discard(run)
        if event.record:
            entries += op.log(run, at, params=_flatten(event.record.settings))
            entries += self._curve_entries(run, at, event.record)
            entries += self._record_entries(run, at, event.record)
        parents = _join_keys(event.record.parents) if event.record else ""
        tags = {"stillhouse.state": event.state, **_reason_tag(event.reason)}
        entries += op.log(run, at, tags={**tags, "stillhouse.parents": parents})
        return [*entries, op.end(run, at, "FAILED" if event.state == "failed" else "FINISHED")]

    def _begin_stage(self, event: StageChanged, at: int) -> list[OutboxEntry]:
        run = stage_run(event.key)
        if run in self._begun_runs:
            return []
        self._begun_runs.add(run)
        tags = {
            **self._kind_tags("stage"),
            "stillhouse.key": event.key,
            "stillhouse.label": event.label,
        }
        return [op.begin(run, at, event.label, tags)]

    def _count_stage(self, event: StageChanged, at: int) -> list[OutboxEntry]:
        """Count a built or reused stage on the search's run, once a launch."""
        made_keys, counted_keys = self._counted_keys["made"], self._counted_keys[event.state]
        if event.key in made_keys or event.key in counted_keys:
            return []
        counted_keys.add(event.key)
        tags = {f"stillhouse.stage.{event.key[:12]}": f"{event.state} {event.label}"}
        return op.log(
            SEARCH_RUN, at, metrics={f"stages.{event.state}": len(counted_keys)}, tags=tags
        )

    def _is_counted(self, key: str) -> bool:
        return any(key in keys for keys in self._counted_keys.values())

    def _trial_started(self, event: TrialStarted, at: int) -> list[OutboxEntry]:
        run = trial_run(event.number)
        tags = {**self._kind_tags("trial"), "stillhouse.number": event.number}
        keys_by_label = list(event.stage_keys.items())[:_MAX_KEYS]
        tags |= {f"stillhouse.key.{label}": key for label, key in keys_by_label}
        *parents, student_key = event.stage_keys.values() or ("",)
        tags |= {"stillhouse.key": student_key, "stillhouse.parents": _join_keys(parents)}
        values = split_compositions(event.values, self._search_space)
        params = {self._short_path(path): value for path, value in values.items()}
        if len(params) < len(values):
            params = values
        costs = _without_epoch(event.costs)
        return [
            op.begin(run, at, f"trial {event.number}", tags),
            *op.log(run, at, params=params, metrics=costs, tags=_cost_tags(costs)),
        ]

    def _trial_ended(self, event: TrialEnded, at: int) -> list[OutboxEntry]:
        run = trial_run(event.number)
        reported = self._reported_steps.pop(event.number, _ReportedSteps())
        step = reported.step
        entries: list[OutboxEntry] = []
        if event.record:
            # A reused student reports its last epoch alone.
            entries += self._curve_entries(run, at, event.record, reported.steps)
            entries += self._record_entries(run, at, event.record)
            step = step or _last_step(event.record)
        new_figures = {k: v for k, v in event.figures.items() if reported.metrics.get(k) != v}
        tags = {"stillhouse.state": event.state, **_cost_tags(event.figures)}
        tags |= _reason_tag(event.reason)
        if event.state == "pruned":
            tags["stillhouse.stopped_by"] = event.reason or "scheduler"
        entries += op.log(run, at, metrics=_without_epoch(new_figures), step=step, tags=tags)
        return [*entries, op.end(run, at, _MLFLOW_STATUS[event.state])]

    def _curve_entries(
        self, run: str, at: int, record: Record, sent_steps: Collection[int] = ()
    ) -> list[OutboxEntry]:
        """One point an epoch, without ``sent_steps``; the last has the final metrics."""
        entries: list[OutboxEntry] = []
        last = _last_step(record)
        for step, epoch_metrics in _epoch_metrics(record):
            if step not in sent_steps:
                final_figures = {
                    k: v for k, v in record.figures.items() if k in epoch_metrics and step == last
                }
                entries += op.log(
                    run, at, metrics=_without_epoch({**epoch_metrics, **final_figures}), step=step
                )
        return entries

    def _record_entries(self, run: str, at: int, record: Record) -> list[OutboxEntry]:
        """The key, environment, metrics, costs and data of a record."""
        tags = {
            **_fact_tags(record.facts),
            **_git_tag(record.environment.versions.get("git")),
            **_cost_tags(record.figures),
            "stillhouse.key": record.key,
            "stillhouse.made_at": record.made_at,
        }
        last = record.curve[-1] if record.curve else {}
        metrics = {k: v for k, v in record.figures.items() if k not in last}
        metrics |= {"seconds": record.seconds, "artifact_bytes": record.payload.size}
        entries = op.log(
            run, at, metrics=_without_epoch(metrics), step=_last_step(record), tags=tags
        )
        return entries + self._dataset_entries(run, at, record)

    def _dataset_entries(self, run: str, at: int, record: Record) -> list[OutboxEntry]:
        """The data of the record; the search's run gets each data set once."""
        identity = record.identity.get("data")
        if not identity:
            return []
        data_facts = record.facts.get("data", {})
        entry = op.dataset(run, at, identity, data_facts)
        if entry["digest"] in self._dataset_digests:
            return [entry]
        self._dataset_digests.add(entry["digest"])
        return [entry, op.dataset(SEARCH_RUN, at, identity, data_facts)]

    def _kind_tags(self, kind: str) -> dict[str, str]:
        return {"stillhouse.search": self._name, "stillhouse.kind": kind}

    def _short_path(self, path: str) -> str:
        return path.removeprefix(self._prefix)


def _epoch_metrics(record: Record) -> list[tuple[int, Mapping[str, float]]]:
    """The metrics of each epoch in a record's curve, with the epoch."""
    return [(int(metrics.get("epoch", i)), metrics) for i, metrics in enumerate(record.curve, 1)]


def _last_step(record: Record) -> int:
    return _epoch_metrics(record)[-1][0] if record.curve else 0


def now_ms() -> int:
    """Milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)


def _common_prefix(paths: Iterable[str]) -> str:
    """The dotted prefix that all searched paths share."""
    parts = [path.split(".")[:-1] for path in paths]
    shared = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(f"{names[0]}.")
    return "".join(shared)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted path, without those that are None or empty."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{path}.")
        elif value not in (None, [], ()):
            flat[path] = value
    return flat


def _without_epoch(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "epoch"}


def _cost_tags(figures: Mapping[str, float]) -> dict[str, str]:
    return {
        f"stillhouse.{name}": f"{figures[name]:.12g}" for name in COST_METRICS if name in figures
    }


def _fact_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Facts that fit into a tag, without ``data``, which is the run's input."""
    tags = {f"stillhouse.{k}": op.plain_text(v) for k, v in facts.items() if k != "data"}
    return {name: text for name, text in tags.items() if len(text) <= _MAX_FACT_LETTERS}


def _join_keys(keys: Sequence[str]) -> str:
    return ",".join(keys[:100])


def _reason_tag(reason: str) -> dict[str, str]:
    return {"stillhouse.reason": reason} if reason else {}


def _git_tag(revision: str | None) -> dict[str, str]:
    return {"mlflow.source.git.commit": revision} if revision not in (None, "unknown") else {}


def seed_run_metrics(outcome: Outcome) -> dict[str, float]:
    """Mean and spread over the seeds of the goals' metrics."""
    metrics = {}
    for seed_runs in outcome.seed_runs:
        for metric in {goal.figure for goal in outcome.goals}:
            if seed_runs.records and all(metric in r.figures for r in seed_runs.records):
                name = f"repeats.{seed_runs.name.replace(',', '')}.{metric}"
                metrics[f"{name}.mean"] = seed_runs.mean(metric)
                metrics[f"{name}.spread"] = seed_runs.spread(metric)
    return metrics


def screen_metrics(outcome: Outcome) -> dict[str, float]:
    """The screen's rank correlation and counts; empty without a screen."""
    quality = screen_quality(outcome.trials, outcome.goals[0].figure)
    if quality is None:
        return {}
    metrics = {
        f"screen.{verdict}": float(count) for verdict, count in quality.verdict_counts.items()
    }
    metrics["screen.pairs"] = len(quality.pairs)
    correlation = {} if math.isnan(quality.spearman) else {"screen.spearman": quality.spearman}
    return metrics | correlation
