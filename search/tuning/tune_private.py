"""The private API of Ray Tune that the search uses."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial

SEEN_IN = "2.60.0"
"""The version of Ray in which everything here was last seen to work."""


def has_starting_actor(controller: Any) -> bool:
    """Whether a trial waits for an actor of its own; one that was given another's has it."""
    return any(
        trial.status == Trial.PENDING and trial.temporary_state.ray_actor is None
        for trial in controller.get_live_trials()
    )


def stop_trial(controller: Any, trial: Trial) -> None:
    """End a trial outside a scheduler's answer to one of its results."""
    controller.stop_trial(trial)
