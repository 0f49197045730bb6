"""Gaussian process with expected improvement (Snoek et al. 2012)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from stillhouse.search.experiment.tuner_settings import SamplerConfig
from stillhouse.search.tuning.samplers._startup import num_startup_trials

if TYPE_CHECKING:
    from optuna.samplers import GPSampler


class Gp(SamplerConfig):
    """Models the goal by a Gaussian process; for few and costly trials."""

    # A Gaussian process learns from values only, and proposes again what was refused.
    refusals_before_random: ClassVar[int] = 1

    def build(self, seed: int, num_trials: int) -> GPSampler:
        import optuna

        return optuna.samplers.GPSampler(
            seed=seed,
            n_startup_trials=num_startup_trials(num_trials),
            warn_independent_sampling=False,
        )
