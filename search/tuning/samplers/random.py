"""Random search (Bergstra and Bengio 2012)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.experiment.tuner_settings import SamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import RandomSampler


class Random(SamplerConfig):
    """Independent draws; earlier trials have no influence."""

    def build(self, seed: int, num_trials: int) -> RandomSampler:
        import optuna

        return optuna.samplers.RandomSampler(seed=seed)
