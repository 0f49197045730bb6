"""Tree-structured Parzen estimator (Bergstra et al. 2011, section 4)."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from stillhouse.search.experiment.tuner_settings import SamplerConfig
from stillhouse.search.tuning.samplers._startup import num_startup_trials

if TYPE_CHECKING:
    from optuna.samplers import TPESampler


class Tpe(SamplerConfig):
    """Models good and bad configurations by densities (Bergstra et al. 2011)."""

    def build(self, seed: int, num_trials: int) -> TPESampler:
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Grouped: a chain's length decides which settings exist, and each group of trials
            # that share their settings is modelled together.
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                n_startup_trials=num_startup_trials(num_trials),
            )
