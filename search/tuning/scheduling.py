"""When a trial stops: at its end, or earlier if Tune's schedulers say so."""

from __future__ import annotations

import time
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.max_epochs import most_epochs
from stillhouse.search.experiment.schema import AshaSettings, MedianSettings

ENDED_KEY = "ended"
"""In a trial's last result, in place of Tune's ``done``, which would leave no choice."""
GOAL_METRIC = "stillhouse_goal"
"""In a trial's results: the first goal's figure, of what would be kept if the trial stopped now.
With ``keep: best`` that is the best epoch's, and schedulers compare trials by it."""
MAX_HOLD_S = 15.0
"""Seconds for which a trial that has ended may be held."""
HOLD_PAUSE_S = 60.0
"""Seconds for which none is held after one was held in vain."""


class _HoldEndedTrials(TrialScheduler):
    """Ends no trial while another one's actor is starting.

    Tune gives the actor of a trial that ends to the one whose own actor is still starting, and
    kills that: where trials are shorter than the seconds an actor takes, one slot would run them
    all while the others start actors for ever. So the trial that ends keeps its actor till then.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self._held_until: dict[Trial, float] = {}
        self._paused_until = 0.0

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if not result.get(ENDED_KEY):
            return str(super().on_trial_result(controller, trial, result))
        if time.monotonic() < self._paused_until or not _has_starting_actor(controller):
            return str(TrialScheduler.STOP)
        self._held_until[trial] = time.monotonic() + MAX_HOLD_S
        return str(TrialScheduler.NOOP)

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        if self._held_until:
            self._release_held(controller)
        return super().choose_trial_to_run(controller)

    def _release_held(self, controller: Any) -> None:
        now = time.monotonic()
        actor_is_starting = _has_starting_actor(controller)
        for trial, deadline in list(self._held_until.items()):
            if not actor_is_starting or now > deadline:
                del self._held_until[trial]
                controller.stop_trial(trial)
        if actor_is_starting and not self._held_until:
            self._paused_until = now + HOLD_PAUSE_S


def _has_starting_actor(controller: Any) -> bool:
    """Whether a trial waits for an actor of its own; one that was given another's has it."""
    return any(
        trial.status == Trial.PENDING and trial.temporary_state.ray_actor is None
        for trial in controller.get_live_trials()
    )


class _Fifo(_HoldEndedTrials, FIFOScheduler):
    """Every trial to its end."""


class _Asha(_HoldEndedTrials, ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2020, algorithm 2)."""


class _Median(_HoldEndedTrials, MedianStoppingRule):
    """The median stopping rule (Golovin et al. 2017, section 3.2.2)."""


def make_scheduler(experiment: Experiment) -> TrialScheduler:
    """The scheduler an experiment asks for; it counts epochs."""
    settings: Any = experiment.run.scheduler
    if isinstance(settings, AshaSettings):
        return _Asha(
            time_attr="epoch",
            # Tune stops a trial that reaches it, and a trial may train for longer than the file.
            max_t=max(most_epochs(experiment), settings.grace_epochs),
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction_factor,
        )
    if isinstance(settings, MedianSettings):
        return _Median(
            time_attr="epoch",
            grace_period=settings.grace_epochs,
            min_samples_required=settings.min_trials,
        )
    return _Fifo()
