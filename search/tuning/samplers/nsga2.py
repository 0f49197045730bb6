"""Elitist genetic algorithm for several goals (Deb et al. 2002, NSGA-II)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stillhouse.search.experiment.tuner_settings import SamplerConfig

if TYPE_CHECKING:
    from optuna.samplers import NSGAIISampler


class Nsga2(SamplerConfig):
    """A genetic algorithm; for several goals and many trials (Deb et al. 2002)."""

    def build(self, seed: int, num_trials: int) -> NSGAIISampler:
        import optuna

        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(8, num_trials // 4))
