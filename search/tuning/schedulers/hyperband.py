"""Hyperband (Li et al. 2018, algorithm 1) with asynchronous brackets, as in Optuna."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from stillhouse.search.tuning.schedulers._pruner import PrunerConfig
from stillhouse.spaces.config.base import setting

if TYPE_CHECKING:
    from optuna.pruners import HyperbandPruner


class Hyperband(PrunerConfig):
    """Successive halving in several brackets with different grace periods (Li et al. 2018)."""

    grace_epochs: int = setting(3, "epochs before a trial of the first bracket may stop", ge=1)
    reduction_factor: int = setting(3, "one in so many goes on at each rung", ge=2)

    def build_pruner(self, max_epochs: int) -> HyperbandPruner:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.pruners.HyperbandPruner(
                min_resource=self.grace_epochs,
                max_resource=max(max_epochs, self.grace_epochs),
                reduction_factor=self.reduction_factor,
            )
