"""The ledger: what became of each trial, told to the study and to whoever listens."""

from __future__ import annotations

from collections.abc import Mapping

from stillhouse.search.artifacts.store import Library
from stillhouse.search.execution.watchdog import seconds_hung
from stillhouse.search.monitoring.dispatcher import Announcer
from stillhouse.search.monitoring.events import (
    Needed,
    StageChanged,
    StageState,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialWaiting,
)
from stillhouse.search.monitoring.teachers import guesses
from stillhouse.search.results.outcome import TrialState
from stillhouse.search.results.screening import Screened
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.study import Proposal, Study


class Ledger:
    """Books trials into the study and announces them."""

    def __init__(self, study: Study, library: Library, announce: Announcer) -> None:
        self.study = study
        self.announce = announce
        self._library = library
        self._running: dict[int, Proposal] = {}
        self._found: set[int] = set()

    def waiting(self, proposal: Proposal) -> None:
        """A trial is decided; what it rests on is asked for now."""
        stages = tuple(
            Needed(stage.key, stage.label, tuple(parent.key for parent in stage.parents))
            for stage in proposal.recipe.prerequisites
        )
        self.announce(TrialWaiting(proposal.number, stages, guesses(proposal.recipe.student)))

    def started(self, proposal: Proposal) -> None:
        """A trial is handed to a worker."""
        self._running[proposal.number] = proposal
        if self._library.has(proposal.recipe.student.key):
            self._found.add(proposal.number)
        self._announce_start(proposal)

    def found(self, proposal: Proposal) -> None:
        """A trial is about to make what it rests on: all that is there already was not made."""
        self._tell_stages(proposal, "reused")

    def reported(self, number: int, report: Mapping[str, float]) -> None:
        """One epoch of a trial is done."""
        self.announce(TrialReported(number, int(report.get("epoch", 0)), dict(report)))

    def finished(self, number: int, figures: Mapping[str, float]) -> None:
        """A trial ran to its end, with the figures of the network that is kept."""
        figures = self._with_screen(number, figures)
        student = self._close(number)
        told = self.study.tell(number, figures, number in self._found)
        record = self._library.record(student.key)
        state: TrialState = "finished" if told.state == "finished" else "failed"
        self.announce(TrialEnded(number, state, figures, told.reason, record))

    def pruned(self, number: int, figures: Mapping[str, float], reason: str) -> None:
        """A scheduler stopped a trial early."""
        figures = self._with_screen(number, figures)
        self._close(number)
        self.study.prune(number, figures, reason)
        self.announce(TrialEnded(number, "pruned", figures, reason))

    def screened_out(self, proposal: Proposal, screened: Screened) -> None:
        """A trial is not worth a worker; nothing was made for it but its screen's student."""
        self._announce_start(proposal)
        self.study.prune(proposal.number, screened.figures, str(screened))
        self.announce(TrialEnded(proposal.number, "pruned", screened.figures, str(screened)))

    def failed(self, number: int, reason: str) -> None:
        """A trial could not be run to its end."""
        self._close(number)
        self.study.fail(number, reason)
        self.announce(TrialEnded(number, "failed", {}, reason))

    def lost(self, number: int) -> None:
        """A trial lost its worker, also when it was tried again."""
        student = self._running[number].recipe.student
        hung = seconds_hung(self._library, student.key)
        why = f"; it gave no report for {hung:g} s: where one takes longer, set run.hang_after"
        self.failed(number, f"its worker was lost, also when tried again{why if hung else ''}")

    def interrupted(self) -> None:
        """The search is being stopped: what is running will be taken up by a resume."""
        for number in list(self._running):
            self._close(number)
            self.announce(TrialEnded(number, "interrupted", {}, "the search was stopped"))

    def _announce_start(self, proposal: Proposal) -> None:
        keys, number = proposal.recipe.keys, proposal.number
        teachers = guesses(proposal.recipe.student)
        self.announce(TrialStarted(number, proposal.values, keys, proposal.costs, teachers))

    def _with_screen(self, number: int, figures: Mapping[str, float]) -> Mapping[str, float]:
        """A trial's figures and that of its screen, if it had one."""
        screened = self._running[number].screen
        return {**figures, **screened.figures} if screened else figures

    def _close(self, number: int) -> Stage:
        """Announces stages that the trial itself made on its way."""
        proposal = self._running.pop(number)
        self._tell_stages(proposal, "made")
        return proposal.recipe.student

    def _tell_stages(self, proposal: Proposal, state: StageState) -> None:
        """Announce what the trial rests on and the library has, if nobody else has done so."""
        for stage in proposal.recipe.prerequisites:
            record = self._library.record(stage.key)
            if record is not None:
                self.announce(StageChanged(stage.key, stage.label, state, record=record))
