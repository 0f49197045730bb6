"""Records each trial in the study and dispatches its events."""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution.watchdog import pop_hang_timeout
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import (
    RequiredStage,
    StageChanged,
    StageState,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
)
from stillhouse.search.monitoring.teachers import majority_accuracies
from stillhouse.search.results.outcome import TrialState
from stillhouse.search.results.screening import ScreenDecision
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.attempt import GOAL_METRIC
from stillhouse.search.tuning.study import Proposal, Study


class TrialRecorder:
    """Records trials in the study and dispatches their events."""

    def __init__(self, study: Study, library: Library, dispatch: EventDispatcher) -> None:
        self.study = study
        self.dispatch = dispatch
        self._library = library
        self._running: dict[int, Proposal] = {}
        self._reused: set[int] = set()

    def record_waiting(self, proposal: Proposal) -> None:
        """A trial has its values; its prerequisites are requested now."""
        stages = tuple(
            RequiredStage(stage.key, stage.label, tuple(parent.key for parent in stage.parents))
            for stage in proposal.graph.prerequisites
        )
        self.dispatch(
            TrialWaiting(proposal.number, stages, majority_accuracies(proposal.graph.student))
        )

    def record_start(self, proposal: Proposal) -> None:
        """A trial is handed to a worker."""
        self._running[proposal.number] = proposal
        if self._library.has(proposal.graph.student.key):
            self._reused.add(proposal.number)
        self._announce_start(proposal)

    def announce_reused(self, proposal: Proposal) -> None:
        """A trial is about to build its prerequisites; those in the library are reused."""
        self._announce_stages(proposal, "reused")

    def record_report(self, number: int, report: Mapping[str, float]) -> None:
        """One epoch of a trial is done."""
        self.dispatch(TrialReported(number, int(report.get("epoch", 0)), dict(report)))

    def record_goal(self, number: int, report: Mapping[str, float]) -> None:
        """Give the study the goal's value of a report, if it has one; twice does no harm."""
        if GOAL_METRIC in report:
            self.study.report(number, int(report.get("epoch", 0)), report[GOAL_METRIC])

    def record_finish(self, number: int, figures: Mapping[str, float]) -> None:
        """A trial ran to its end, with the figures of the network that is kept."""
        figures = self._with_screen(number, figures)
        student = self._remove(number)
        trial = self.study.tell(number, figures, number in self._reused)
        record = self._library.record(student.key)
        state: TrialState = "finished" if trial.state == "finished" else "failed"
        self.dispatch(TrialEnded(number, state, figures, trial.reason, record))

    def record_pruned(self, number: int, figures: Mapping[str, float], reason: str) -> None:
        """A scheduler stopped a trial early."""
        figures = self._with_screen(number, figures)
        self._remove(number)
        self.study.prune(number, figures, reason)
        self.dispatch(TrialEnded(number, "pruned", figures, reason))

    def record_screened_out(self, proposal: Proposal, decision: ScreenDecision) -> None:
        """The screen left the trial out; only its screening student was built."""
        self._announce_start(proposal)
        self.study.prune(proposal.number, decision.figures, str(decision))
        self.dispatch(TrialEnded(proposal.number, "pruned", decision.figures, str(decision)))

    def record_failure(self, number: int, reason: str) -> None:
        """A trial failed."""
        self._remove(number)
        self.study.fail(number, reason)
        self.dispatch(TrialEnded(number, "failed", {}, reason))

    def record_lost_worker(self, number: int) -> None:
        """A trial lost its worker, also when it was tried again."""
        student = self._running[number].graph.student
        hang_timeout = pop_hang_timeout(self._library, student.key)
        failure = "its worker was lost, also when tried again"
        if hang_timeout:
            failure += f"; it gave no report for {hang_timeout:g} s: "
            failure += "where one takes longer, set run.hang_after"
        self.record_failure(number, failure)

    def record_interruption(self) -> None:
        """The search is being stopped; a resume continues the running trials."""
        for number in list(self._running):
            self._remove(number)
            self.dispatch(TrialEnded(number, "interrupted", {}, "the search was stopped"))

    def _announce_start(self, proposal: Proposal) -> None:
        keys, number = proposal.graph.keys_by_label, proposal.number
        teachers = majority_accuracies(proposal.graph.student)
        self.dispatch(TrialStarted(number, proposal.values, keys, proposal.costs, teachers))

    def _with_screen(self, number: int, figures: Mapping[str, float]) -> Mapping[str, float]:
        """A trial's figures and that of its screen, if it had one."""
        decision = self._running[number].screen_decision
        return {**figures, **decision.figures} if decision else figures

    def _remove(self, number: int) -> Stage:
        """Remove a trial, and announce the stages that it built itself."""
        proposal = self._running.pop(number)
        self._announce_stages(proposal, "made")
        return proposal.graph.student

    def _announce_stages(self, proposal: Proposal, state: StageState) -> None:
        """Announce prerequisites that are in the library and were not announced before."""
        for stage in proposal.graph.prerequisites:
            record = self._library.record(stage.key)
            if record is not None:
                self.dispatch(StageChanged(stage.key, stage.label, state, record=record))
