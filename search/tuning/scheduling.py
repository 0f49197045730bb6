"""When a trial stops: at its end, or earlier if its scheduler or Optuna's pruner says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.max_epochs import most_epochs
from stillhouse.search.tuning.tune_private import has_starting_actor, stop_trial

ENDED_KEY = "ended"
"""In a trial's last result, in place of Tune's ``done``, after which Tune asks no scheduler."""
MAX_HOLD_S = 15.0
"""Longest hold of an ended trial, in seconds."""
HOLD_PAUSE_S = 60.0
"""Seconds without holds after a hold that ended before the other actor had started."""

ShouldPrune = Callable[[str, Mapping[str, Any]], bool]
"""Tune's id of a trial and its result -> whether the study stops the trial now."""


class TrialStopper(FIFOScheduler):
    """A scheduler that also asks the study, and ends no trial while another's actor is starting.

    Tune gives the actor of an ended trial to the trial whose own actor is still starting, and
    kills that actor. Where trials are shorter than the start of an actor, one slot would run all
    trials and the others would start actors for ever. So an ended trial keeps its actor till then.

    Args:
        scheduler: Tune's, which decides about running trials.
        should_prune: asked where ``scheduler`` lets a trial go on.
    """

    def __init__(self, scheduler: FIFOScheduler, should_prune: ShouldPrune) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scheduler = scheduler
        self._should_prune = should_prune
        self._held_until: dict[Trial, float] = {}
        self._paused_until = 0.0

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        super().set_search_properties(metric, mode, **spec)
        return self.scheduler.set_search_properties(metric, mode, **spec)

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        self.scheduler.on_trial_add(controller, trial)

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        self.scheduler.on_trial_error(controller, trial)

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.scheduler.on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Trial) -> None:
        self.scheduler.on_trial_remove(controller, trial)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if not result.get(ENDED_KEY):
            decision = self.scheduler.on_trial_result(controller, trial, result)
            # Asked also where the answer is settled: the study gets the value of this epoch.
            prunes = self._should_prune(trial.trial_id, result)
            return TrialScheduler.STOP if prunes else decision
        if time.monotonic() < self._paused_until or not has_starting_actor(controller):
            return TrialScheduler.STOP
        self._held_until[trial] = time.monotonic() + MAX_HOLD_S
        return TrialScheduler.NOOP

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        if self._held_until:
            self._release_held(controller)
        return self.scheduler.choose_trial_to_run(controller)

    def _release_held(self, controller: Any) -> None:
        now = time.monotonic()
        actor_is_starting = has_starting_actor(controller)
        for trial, deadline in list(self._held_until.items()):
            if not actor_is_starting or now > deadline:
                del self._held_until[trial]
                stop_trial(controller, trial)
        if actor_is_starting and not self._held_until:
            self._paused_until = now + HOLD_PAUSE_S


def make_scheduler(experiment: Experiment, should_prune: ShouldPrune) -> TrialStopper:
    """The scheduler that an experiment names, wrapped; it counts epochs."""
    return TrialStopper(experiment.run.scheduler.build(most_epochs(experiment)), should_prune)
