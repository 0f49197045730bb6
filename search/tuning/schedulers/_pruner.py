"""Optuna's pruners as schedulers: the study decides on the values that it was given by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.experiment.tuner_settings import SchedulerConfig

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from ray.tune.schedulers import FIFOScheduler


class PrunerConfig(SchedulerConfig):
    """A scheduler that stops a trial where an Optuna pruner says so.

    Optuna's steps are epochs, counted from 1.
    """

    def build(self, max_epochs: int) -> FIFOScheduler:
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()  # type: ignore[no-untyped-call]

    def build_pruner(self, max_epochs: int) -> BasePruner:
        """The pruner; no trial trains for more than ``max_epochs``."""
        raise NotImplementedError
