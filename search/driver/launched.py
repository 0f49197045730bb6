"""The request and the result of a launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.events import Observer, SearchState
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.run_folder import RunFolder


@dataclass(frozen=True)
class LaunchResult:
    """The result of a launch; ``outcome`` is partial if it was interrupted.

    ``reason`` explains a failure. ``notes`` name omitted results of a launch that succeeded.
    ``unsent`` is the number of entries that MLflow has not received.
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
    """The experiment and run folder of a launch, and the observers of its events."""

    experiment: Experiment
    folder: RunFolder
    observers: Sequence[Observer]
    measure_test: bool = False
    resumed: bool = False


class SearchFailed(RuntimeError):
    """No trial of a search finished, or a final step failed.

    ``result`` holds the outcome; the other final steps were done. The message is one line.
    """

    def __init__(self, result: LaunchResult) -> None:
        super().__init__(f"{result.folder.name}: {result.reason}")
        self.result = result
