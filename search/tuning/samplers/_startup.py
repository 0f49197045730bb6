"""Random trials before a model of the search space is used."""


def num_startup_trials(num_trials: int) -> int:
    """A third of the search, between 4 and Optuna's default of 10."""
    return max(4, min(10, num_trials // 3))
