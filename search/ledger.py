"""The ledger: what became of each trial, told to the study and to whoever listens."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from search.events import (
    Event,
    Observer,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialState,
)
from search.library.store import Library
from search.stage import Stage
from search.study import Proposal, Study


class Announcer:
    """Passes events to all observers, one at a time whichever thread they come from."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        self._lock = threading.Lock()
        self.made: set[str] = set()
        self.reused: set[str] = set()
        self._told: set[str] = set()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, StageChanged) and not self._is_news(event):
                return
            for observer in self._observers:
                observer(event)

    def _is_news(self, event: StageChanged) -> bool:
        """Whether the end of a stage is told for the first time; keeps count of both kinds."""
        if event.state not in ("made", "reused"):
            return True
        if event.key in self._told:
            return False
        self._told.add(event.key)
        (self.made if event.state == "made" else self.reused).add(event.key)
        return True


class Ledger:
    """Books trials into the study and announces them."""

    def __init__(self, study: Study, library: Library, announce: Announcer) -> None:
        self.study = study
        self.announce = announce
        self._library = library
        self._running: dict[int, Proposal] = {}

    def started(self, proposal: Proposal) -> None:
        """A trial is handed to a worker."""
        self._running[proposal.number] = proposal
        keys, number = proposal.recipe.keys, proposal.number
        self.announce(TrialStarted(number, proposal.values, keys, proposal.costs))

    def reported(self, number: int, report: Mapping[str, float]) -> None:
        """One epoch of a trial is done."""
        self.announce(TrialReported(number, int(report.get("epoch", 0)), dict(report)))

    def finished(self, number: int, figures: Mapping[str, float]) -> None:
        """A trial ran to its end."""
        student = self._close(number)
        told = self.study.tell(number, figures, {})
        record = self._library.record(student.key)
        state: TrialState = "finished" if told.state == "finished" else "failed"
        self.announce(TrialEnded(number, state, figures, told.reason, record))

    def pruned(self, number: int, figures: Mapping[str, float], reason: str) -> None:
        """A scheduler stopped a trial early."""
        self._close(number)
        self.study.prune(number, figures, reason)
        self.announce(TrialEnded(number, "pruned", figures, reason))

    def failed(self, number: int, reason: str) -> None:
        """A trial could not be run to its end."""
        self._close(number)
        self.study.fail(number, reason)
        self.announce(TrialEnded(number, "failed", {}, reason))

    def interrupted(self) -> None:
        """The search is being stopped: what is running will be taken up by a resume."""
        for number in list(self._running):
            self._close(number)
            self.announce(TrialEnded(number, "interrupted", {}, "the search was stopped"))

    def _close(self, number: int) -> Stage:
        """Announces stages that the trial itself made or found on its way."""
        recipe = self._running.pop(number).recipe
        for stage in recipe.prerequisites:
            record = self._library.record(stage.key)
            if record is not None:
                self.announce(StageChanged(stage.key, stage.label, "made", record=record))
        return recipe.student
