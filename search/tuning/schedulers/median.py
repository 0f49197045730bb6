"""The median stopping rule (Golovin et al. 2017, section 3.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.experiment.tuner_settings import SchedulerConfig
from stillhouse.spaces.config.base import setting

if TYPE_CHECKING:
    from ray.tune.schedulers import MedianStoppingRule


class Median(SchedulerConfig):
    """Stops a trial whose best lies below the median of the others' running means."""

    grace_epochs: int = setting(3, "epochs before a trial may be stopped", ge=1)
    min_trials: int = setting(4, "trials to compare with before any is stopped", ge=1)

    def build(self, max_epochs: int) -> MedianStoppingRule:
        from ray.tune.schedulers import MedianStoppingRule

        return MedianStoppingRule(
            time_attr="epoch",
            grace_period=self.grace_epochs,
            min_samples_required=self.min_trials,
        )
