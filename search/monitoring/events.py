"""What happens during a search, as values; the live view, MLflow and the tables listen.

The search itself knows none of its listeners: it calls each :data:`Observer` with each event,
on the driver's thread, so an observer must return at once and do slow work elsewhere.
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
    """``experiment`` is the experiment as plain data; ``resumed`` if it had been started before,
    with ``ended_counts``, the trials that have ended already by state, and the ``best`` of them as
    (value of the first goal, number). ``num_trials`` is how many there are to be in all.
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

    ``label`` is for people (``assistants/cnn6``); ``epoch`` of ``epochs`` while it runs (0 when
    a worker has just taken it up), on ``node`` where there are several; ``in_trial`` if a trial
    that waits for it makes it in its own slot, as no other was free; ``record`` once it is made or
    found; ``reason`` if it failed; ``storage_unavailable`` if that was no fault of its own, but of
    the library's place.
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
    """A stage that a trial rests on; ``parents`` are the keys of those that it rests on itself."""

    key: str
    label: str
    parents: tuple[str, ...]


@dataclass(frozen=True)
class TrialWaiting:
    """A trial is decided, and starts when all of ``stages`` are in the library.

    ``chance_accuracies`` maps the key of each stage that teaches to the accuracy of mere guessing
    there.
    """

    number: int
    stages: tuple[RequiredStage, ...]
    chance_accuracies: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialStarted:
    """``values`` maps each searched path to the value drawn, ``stage_keys`` each stage to its key;
    ``chance_accuracies`` as for :class:`TrialWaiting`."""

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
    """``record`` is the student's, where one was made; ``reason`` says why it is not finished."""

    number: int
    state: TrialState
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    record: Record | None = None


@dataclass(frozen=True)
class ScreenDisabled:
    """The screen ranks too badly: from now on every configuration is trained."""

    reason: str


@dataclass(frozen=True)
class WarningIssued:
    """Something looks wrong, and the search goes on: ``source`` is a path of the file or a
    stage."""

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
