"""The events of a search, as values.

The search calls each ``Observer`` with each event on the driver's thread. An observer therefore
returns at once and does slow work on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stillhouse.search.artifacts.record import Record
from stillhouse.search.results.outcome import TrialState

SearchState = Literal["finished", "interrupted", "failed"]
StageState = Literal["queued", "running", "made", "reused", "failed"]


@dataclass(frozen=True)
class SearchStarted:
    """``experiment`` is plain data; ``num_trials`` is the planned number of trials.

    A ``resumed`` search has ``ended_counts``, its ended trials by state, and ``best``, the best of
    them as (value of the first goal, number).
    """

    name: str
    experiment: Mapping[str, Any]
    resumed: bool
    ended_counts: Mapping[str, int] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    num_trials: int = 0


@dataclass(frozen=True)
class StageChanged:
    """A shared stage (teacher, assistant, ...) changed its state.

    Attributes:
        label: its name for people, such as ``assistants/cnn6``.
        epoch: the last epoch of ``epochs`` while it runs; 0 when a worker has just started it.
        record: its record, once it is made or reused.
        reason: why it failed.
        node: the machine that runs it, where there are several.
        storage_unavailable: True if it failed because the library could not be reached.
        in_trial: True if a waiting trial builds it in its own slot, since no other was free.
    """

    key: str
    label: str
    state: StageState
    epoch: int = 0
    epochs: int = 0
    record: Record | None = None
    reason: str = ""
    node: str = ""
    storage_unavailable: bool = False
    in_trial: bool = False


@dataclass(frozen=True)
class RequiredStage:
    """A stage that a trial needs; ``parents`` are the keys of the stages that it needs itself."""

    key: str
    label: str
    parents: tuple[str, ...]


@dataclass(frozen=True)
class TrialWaiting:
    """A trial has its values, and starts when all of ``stages`` are in the library.

    ``chance_accuracies`` maps the key of each teacher to the accuracy of guessing on its data.
    """

    number: int
    stages: tuple[RequiredStage, ...]
    chance_accuracies: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialStarted:
    """``values`` maps each searched path to its value, ``stage_keys`` each label to its key.

    ``chance_accuracies`` is as for ``TrialWaiting``.
    """

    number: int
    values: Mapping[str, Any]
    stage_keys: Mapping[str, str]
    costs: Mapping[str, float]
    chance_accuracies: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialReported:
    """One epoch of a trial's last stage; ``metrics`` holds ``val_accuracy``, ``train_loss``, ..."""

    number: int
    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class TrialEnded:
    """``record`` is the student's, if there is one; ``reason`` says why it did not finish."""

    number: int
    state: TrialState
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    record: Record | None = None


@dataclass(frozen=True)
class ScreenDisabled:
    """The screen ranks too badly: every later configuration is trained."""

    reason: str


@dataclass(frozen=True)
class WarningIssued:
    """Something looks wrong, and the search continues.

    ``source`` is a path in the experiment file, or the name of a stage.
    """

    source: str
    message: str

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


@dataclass(frozen=True)
class SearchEnded:
    """The last event of a search."""

    state: SearchState
    reason: str = ""


Event = (
    SearchStarted
    | StageChanged
    | TrialWaiting
    | TrialStarted
    | TrialReported
    | TrialEnded
    | ScreenDisabled
    | WarningIssued
    | SearchEnded
)
Observer = Callable[[Event], None]
