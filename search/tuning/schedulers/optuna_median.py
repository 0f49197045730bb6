"""Optuna's median pruner (Golovin et al. 2017, with medians of values at the same epoch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.tuning.schedulers._pruner import PrunerConfig
from stillhouse.spaces.config.base import setting

if TYPE_CHECKING:
    from optuna.pruners import MedianPruner


class OptunaMedian(PrunerConfig):
    """Stops a trial whose best lies below the median of finished trials at the same epoch."""

    grace_epochs: int = setting(3, "epochs before a trial may be stopped", ge=1)
    min_trials: int = setting(4, "finished trials before any is stopped", ge=1)

    def build_pruner(self, max_epochs: int) -> MedianPruner:
        import optuna

        return optuna.pruners.MedianPruner(
            n_startup_trials=self.min_trials, n_warmup_steps=self.grace_epochs
        )
