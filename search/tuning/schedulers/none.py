"""No early stopping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.experiment.tuner_settings import SchedulerConfig

if TYPE_CHECKING:
    from ray.tune.schedulers import FIFOScheduler


class NoScheduler(SchedulerConfig):
    """Every trial runs to its end."""

    def build(self, max_epochs: int) -> FIFOScheduler:
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()  # type: ignore[no-untyped-call]
