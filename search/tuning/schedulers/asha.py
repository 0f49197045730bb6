"""Asynchronous successive halving (Li et al. 2020, algorithm 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.experiment.tuner_settings import SchedulerConfig
from stillhouse.spaces.config.base import setting

if TYPE_CHECKING:
    from ray.tune.schedulers import ASHAScheduler


class Asha(SchedulerConfig):
    """Asynchronous successive halving (Li et al. 2020), stopping form, by epochs."""

    grace_epochs: int = setting(3, "epochs before a trial may be stopped", ge=1)
    reduction_factor: float = setting(3.0, "one in so many goes on at each rung", gt=1.0)

    def build(self, max_epochs: int) -> ASHAScheduler:
        from ray.tune.schedulers import ASHAScheduler

        return ASHAScheduler(
            time_attr="epoch",
            # Tune stops a trial that reaches max_t, which must not be below the grace period.
            max_t=max(max_epochs, self.grace_epochs),
            grace_period=self.grace_epochs,
            reduction_factor=self.reduction_factor,
        )
