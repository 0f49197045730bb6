"""What a launch is asked to do, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.events import Observer, SearchState
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.run_folder import RunFolder


@dataclass(frozen=True)
class LaunchResult:
    """What a launch came to. ``outcome`` is what is known so far if it was interrupted.

    ``reason`` says why it failed; ``notes`` what was left out, and why, though it did not.
    """

    folder: RunFolder
    state: SearchState
    outcome: Outcome
    tracking: str
    unsent: int
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LaunchRequest:
    """What is launched, and who hears of it."""

    experiment: Experiment
    folder: RunFolder
    observers: Sequence[Observer]
    measure_test: bool = False
    resumed: bool = False


class SearchFailed(RuntimeError):
    """No trial of a search finished, or something failed when it had ended.

    ``result`` is what it came to; what could be written and sent, was. The message is one line
    with the reasons.
    """

    def __init__(self, result: LaunchResult) -> None:
        super().__init__(f"{result.folder.name}: {result.reason}")
        self.result = result
