"""The same search in this process, without Ray: for debugging, tests and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution.builder import build_batch, build_stages
from stillhouse.search.execution.failures import reason
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import StageChanged
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.attempt import GOAL_METRIC, run_trial
from stillhouse.search.tuning.proxy_screen import LocalStageSubmitter, proposal_queue
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Proposal


class LocalBackend:
    """Builds stages and runs trials one after the other, without a trial scheduler.

    It computes with as many threads as a worker on a cluster would, ``run.resources.cpu``: other
    numbers of threads round differently.
    """

    def __init__(self, experiment: Experiment, library: Library, dispatch: EventDispatcher) -> None:
        self._experiment = experiment
        self._library = library
        self._dispatch = dispatch
        self._failures: dict[str, str] = {}
        self._built: set[str] = set()
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(max(1, int(experiment.run.resources.cpu)))

    def build(self, stages: Iterable[Stage]) -> dict[str, str]:
        """Build stages and their ancestors; returns key -> failure reason."""
        requested = list(stages)
        self._build_batches(needed for stage in requested for needed in stage.ancestors())
        failures = {stage.key: self._build(stage) for stage in requested}
        return {key: failure for key, failure in failures.items() if failure}

    def run_trials(self, recorder: TrialRecorder, num_trials: int) -> bool:
        """Run proposals until ``num_trials`` have been tried."""
        queue = proposal_queue(
            self._experiment, recorder, self._library, LocalStageSubmitter(self.build), num_trials
        )
        while proposal := queue.next():
            recorder.record_start(proposal)
            self._run_proposal(proposal, recorder)
        return True

    def node_usage(self) -> list[dict[str, Any]]:
        """Empty: there is no cluster."""
        return []

    def dashboard_folder(self) -> None:
        """None: there is no dashboard."""
        return None

    def close(self) -> None:
        """Nothing is left open; the process computes with the threads it had."""
        torch.set_num_threads(self._threads_before)

    def _run_proposal(self, proposal: Proposal, recorder: TrialRecorder) -> None:
        self._build_batches(proposal.graph.prerequisites)
        for stage in proposal.graph.prerequisites:
            if failure := self._build(stage):
                recorder.record_failure(proposal.number, f"{stage.label}: {failure}")
                return
        reports = iter(run_trial(self._experiment, proposal.graph, self._library))
        while True:
            # A recorder that cannot write, as on a full disk, is no failure of the trial.
            try:
                report = next(reports, None)
            except StorageUnavailable:
                raise
            except Exception as error:
                recorder.record_failure(proposal.number, reason(error))
                return
            if report is None:
                return
            recorder.record_goal(proposal.number, report)
            figures = {k: v for k, v in report.items() if k not in ("done", GOAL_METRIC)}
            recorder.record_report(proposal.number, figures)
            if report.get("done"):
                recorder.record_finish(proposal.number, figures)

    def _build_batches(self, stages: Iterable[Stage]) -> None:
        """Build stages in batches. Stages of a failed batch are built alone later."""
        batches: dict[str, dict[str, Stage]] = {}
        for stage in stages:
            if stage.batch_key and not self._library.has(stage.key):
                batches.setdefault(stage.batch_key, {})[stage.key] = stage
        for batch in batches.values():
            members = list(batch.values())
            if len(members) > 1 and not any(
                self._build(p) for stage in members for p in stage.parents
            ):
                self._build_batch(members)

    def _build_batch(self, stages: Sequence[Stage]) -> None:
        try:
            for reports in build_batch(stages, self._library):
                for stage, report in zip(stages, reports, strict=True):
                    epoch, epochs = int(report.get("epoch", 0)), stage.operation.epochs
                    self._dispatch(StageChanged(stage.key, stage.label, "running", epoch, epochs))
        except StorageUnavailable:
            raise
        except Exception:
            return
        for stage in stages:
            record = self._library.record(stage.key)
            self._dispatch(StageChanged(stage.key, stage.label, "made", record=record))
            self._built.add(stage.key)

    def _build(self, stage: Stage) -> str:
        """Build a stage after its ancestors; returns the failure reason, or an empty string.

        A failed stage is not tried again, since the same settings fail again.
        """
        for needed in stage.ancestors():
            failure = self._failures.get(needed.key) or self._build_one(needed)
            if failure and needed is stage:
                return failure
            if failure:
                return self._fail(stage, f"{needed.label}, which it needs, failed: {failure}")
        return ""

    def _build_one(self, stage: Stage) -> str:
        if stage.key in self._built:
            return ""
        existing = self._library.record(stage.key)
        if existing is not None:
            self._dispatch(StageChanged(stage.key, stage.label, "reused", record=existing))
            return ""
        try:
            for built, report in build_stages([stage], self._library):
                if self._library.has(built.key):
                    continue  # the stage was built before: this report repeats its final figures
                epoch, epochs = int(report.get("epoch", 0)), built.operation.epochs
                self._dispatch(StageChanged(built.key, built.label, "running", epoch, epochs))
        except StorageUnavailable:
            raise
        except Exception as error:
            return self._fail(stage, reason(error))
        record = self._library.record(stage.key)
        self._dispatch(StageChanged(stage.key, stage.label, "made", record=record))
        return ""

    def _fail(self, stage: Stage, failure: str) -> str:
        self._failures[stage.key] = failure
        self._dispatch(StageChanged(stage.key, stage.label, "failed", reason=failure))
        return failure
