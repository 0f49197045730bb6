"""Optuna's percentile pruner: the median rule with another share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.tuning.schedulers._pruner import PrunerConfig
from stillhouse.spaces.config.base import setting

if TYPE_CHECKING:
    from optuna.pruners import PercentilePruner


class Percentile(PrunerConfig):
    """Stops a trial whose best is not among a share of finished trials at the same epoch."""

    keep: float = setting(25.0, "percentage of the trials that goes on", gt=0.0, lt=100.0)
    grace_epochs: int = setting(3, "epochs before a trial may be stopped", ge=1)
    min_trials: int = setting(4, "finished trials before any is stopped", ge=1)

    def build_pruner(self, max_epochs: int) -> PercentilePruner:
        import optuna

        return optuna.pruners.PercentilePruner(
            self.keep, n_startup_trials=self.min_trials, n_warmup_steps=self.grace_epochs
        )
