"""The private API of Optuna that the search uses."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

SEEN_IN = "5.0.0"
"""The version of Optuna in which everything here was last seen to work."""


def reopen_trial(study: optuna.Study, frozen: FrozenTrial) -> optuna.Trial:
    """A running trial of an earlier process, to be reported and ended.

    Optuna has no public way: ``Trial`` takes the storage's id, which only ``_trial_id`` gives.
    """
    return optuna.Trial(study, frozen._trial_id)
