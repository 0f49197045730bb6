"""The queue of proposals of a study."""

from __future__ import annotations

from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Proposal


class ProposalQueue:
    """Hands out the configurations that are left to be tried.

    Args:
        recorder: records the trials of the study.
        num_trials: how many the search tries in all, earlier ones included.
    """

    def __init__(self, recorder: TrialRecorder, num_trials: int) -> None:
        self._recorder = recorder
        self._num_left = num_trials - sum(t.state != "running" for t in recorder.study.trials())

    @property
    def is_exhausted(self) -> bool:
        """Whether there is nothing more to hand out, now or later."""
        return self._num_left <= 0

    def next(self) -> Proposal | None:
        """The next configuration to train; none: not yet, or, when exhausted, never."""
        return self._ask()

    def undecided(self) -> Proposal | None:
        """A configuration of which it is not known yet whether it is trained, if any is."""
        return None

    def _ask(self) -> Proposal | None:
        if self._num_left <= 0:
            return None
        proposal = self._recorder.study.ask()
        self._num_left = self._num_left - 1 if proposal else 0
        return proposal
