"""Proposals: what the study has tried, one configuration after the other."""

from __future__ import annotations

from stillhouse.search.tuning.recorder import Ledger
from stillhouse.search.tuning.study import Proposal


class Proposals:
    """Hands out the configurations that are left to be tried.

    Args:
        ledger: of the study that is asked.
        trials: how many the search tries in all, earlier ones included.
    """

    def __init__(self, ledger: Ledger, trials: int) -> None:
        self._ledger = ledger
        self._left = trials - sum(t.state != "running" for t in ledger.study.trials())

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to hand out, now or later."""
        return self._left <= 0

    def next(self) -> Proposal | None:
        """The next configuration to train; none: not yet, or, when exhausted, never."""
        return self._ask()

    def idle(self) -> Proposal | None:
        """A configuration of which it is not known yet whether it is trained, if any is."""
        return None

    def _ask(self) -> Proposal | None:
        if self._left <= 0:
            return None
        proposal = self._ledger.study.ask()
        self._left = self._left - 1 if proposal else 0
        return proposal
