"""The same search in this process, without Ray: for debugging, tests and notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.errors import Lost
from stillhouse.search.execution.builder import make_all, make_together
from stillhouse.search.execution.failures import reason
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.dispatcher import Announcer
from stillhouse.search.monitoring.events import StageChanged
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.attempt import run_trial
from stillhouse.search.tuning.proxy_screen import Here, proposals
from stillhouse.search.tuning.recorder import Ledger
from stillhouse.search.tuning.study import Proposal


class Inline:
    """Makes stages and runs trials one after the other; schedulers are not consulted.

    It computes with as many threads as a worker on a cluster would, ``run.resources.cpu``: other
    numbers of threads round differently.
    """

    def __init__(self, experiment: Experiment, library: Library, announce: Announcer) -> None:
        self._experiment = experiment
        self._library = library
        self._announce = announce
        self._failed: dict[str, str] = {}
        self._made: set[str] = set()
        self._threads = torch.get_num_threads()
        torch.set_num_threads(max(1, int(experiment.run.resources.cpu)))

    def make(self, stages: Iterable[Stage]) -> dict[str, str]:
        """Make stages and all they rest on; returns key -> reason for those that failed."""
        wanted = list(stages)
        self._make_groups(needed for stage in wanted for needed in stage.lineage())
        found = {stage.key: self._make(stage) for stage in wanted}
        return {key: why for key, why in found.items() if why}

    def search(self, ledger: Ledger, trials: int) -> bool:
        """Ask, make, run and tell until ``trials`` have been tried."""
        left = proposals(self._experiment, ledger, self._library, Here(self.make), trials)
        while proposal := left.next():
            ledger.started(proposal)
            self._try(proposal, ledger)
        return True

    def nodes(self) -> list[dict[str, Any]]:
        """No cluster."""
        return []

    def board(self) -> None:
        """Nobody else looks."""
        return None

    def close(self) -> None:
        """Nothing is left open; the process computes with the threads it had."""
        torch.set_num_threads(self._threads)

    def _try(self, proposal: Proposal, ledger: Ledger) -> None:
        self._make_groups(proposal.recipe.prerequisites)
        for stage in proposal.recipe.prerequisites:
            if why := self._make(stage):
                ledger.failed(proposal.number, f"{stage.label}: {why}")
                return
        reports = iter(run_trial(self._experiment, proposal.recipe, self._library))
        while True:
            # What the ledger cannot note, as on a full disk, is no failure of the trial.
            try:
                report = next(reports, None)
            except Lost:
                raise
            except Exception as error:
                ledger.failed(proposal.number, reason(error))
                return
            if report is None:
                return
            figures = {name: value for name, value in report.items() if name != "done"}
            ledger.reported(proposal.number, figures)
            if report.get("done"):
                ledger.finished(proposal.number, figures)

    def _make_groups(self, stages: Iterable[Stage]) -> None:
        """Make in one pass what can be; what goes wrong there is tried alone, and told, later."""
        groups: dict[str, dict[str, Stage]] = {}
        for stage in stages:
            if stage.group and not self._library.has(stage.key):
                groups.setdefault(stage.group, {})[stage.key] = stage
        for group in groups.values():
            some = list(group.values())
            if len(some) > 1 and not any(self._make(p) for stage in some for p in stage.parents):
                self._make_together(some)

    def _make_together(self, stages: Sequence[Stage]) -> None:
        try:
            for reports in make_together(stages, self._library):
                for stage, report in zip(stages, reports, strict=True):
                    epoch, epochs = int(report.get("epoch", 0)), stage.work.epochs
                    self._announce(StageChanged(stage.key, stage.label, "running", epoch, epochs))
        except Lost:
            raise
        except Exception:
            return
        for stage in stages:
            record = self._library.record(stage.key)
            self._announce(StageChanged(stage.key, stage.label, "made", record=record))
            self._made.add(stage.key)

    def _make(self, stage: Stage) -> str:
        """Make a stage after all it rests on; returns why that failed, if it did.

        What has failed once fails again: other settings are needed, not another attempt.
        """
        for needed in stage.lineage():
            why = self._failed.get(needed.key) or self._make_one(needed)
            if why and needed is stage:
                return why
            if why:
                return self._fail(stage, f"{needed.label}, which it needs, failed: {why}")
        return ""

    def _make_one(self, stage: Stage) -> str:
        if stage.key in self._made:
            return ""
        known = self._library.record(stage.key)
        if known is not None:
            self._announce(StageChanged(stage.key, stage.label, "reused", record=known))
            return ""
        try:
            for made, report in make_all([stage], self._library):
                if self._library.has(made.key):
                    continue  # it was there, and only says again how it ended
                epoch, epochs = int(report.get("epoch", 0)), made.work.epochs
                self._announce(StageChanged(made.key, made.label, "running", epoch, epochs))
        except Lost:
            raise
        except Exception as error:
            return self._fail(stage, reason(error))
        record = self._library.record(stage.key)
        self._announce(StageChanged(stage.key, stage.label, "made", record=record))
        return ""

    def _fail(self, stage: Stage, why: str) -> str:
        self._failed[stage.key] = why
        self._announce(StageChanged(stage.key, stage.label, "failed", reason=why))
        return why
