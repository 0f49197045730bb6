"""The same search in this process, without Ray: for debugging, tests and notebooks."""

from __future__ import annotations

from collections.abc import Iterable

from search.announcer import Announcer
from search.attempt import reason, run_trial
from search.events import StageChanged
from search.experiment import Experiment
from search.ledger import Ledger
from search.library.store import Library
from search.make import make_all
from search.stage import Stage
from search.study import Proposal


class Inline:
    """Makes stages and runs trials one after the other; schedulers are not consulted."""

    def __init__(self, experiment: Experiment, library: Library, announce: Announcer) -> None:
        self._experiment = experiment
        self._library = library
        self._announce = announce

    def make(self, stages: Iterable[Stage]) -> dict[str, str]:
        """Make stages and all they rest on; returns key -> reason for those that failed."""
        failed: dict[str, str] = {}
        for stage in stages:
            try:
                self._make(stage)
            except Exception as error:
                failed[stage.key] = reason(error)
                self._announce(
                    StageChanged(stage.key, stage.label, "failed", reason=failed[stage.key])
                )
        return failed

    def search(self, ledger: Ledger, trials: int) -> bool:
        """Ask, make, run and tell until ``trials`` have been tried."""
        done = [trial for trial in ledger.study.trials() if trial.state != "running"]
        for _ in range(trials - len(done)):
            proposal = ledger.study.ask()
            if proposal is None:
                break
            ledger.started(proposal)
            self._try(proposal, ledger)
        return True

    def close(self) -> None:
        """Nothing is left open."""

    def _try(self, proposal: Proposal, ledger: Ledger) -> None:
        try:
            for stage in proposal.recipe.prerequisites:
                self._make(stage)
            for report in run_trial(self._experiment, proposal.recipe, self._library):
                figures = {name: value for name, value in report.items() if name != "done"}
                ledger.reported(proposal.number, figures)
                if report.get("done"):
                    ledger.finished(proposal.number, figures)
        except Exception as error:
            ledger.failed(proposal.number, reason(error))

    def _make(self, stage: Stage) -> None:
        for needed in stage.lineage():
            known = self._library.record(needed.key)
            if known is not None:
                self._announce(StageChanged(needed.key, needed.label, "reused", record=known))
                continue
            for made, report in make_all([needed], self._library):
                epoch, epochs = int(report.get("epoch", 0)), made.work.epochs
                self._announce(StageChanged(made.key, made.label, "running", epoch, epochs))
            record = self._library.record(needed.key)
            self._announce(StageChanged(needed.key, needed.label, "made", record=record))
