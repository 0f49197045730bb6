"""What would only fail at the end of a run, after all training."""

from __future__ import annotations

from search.experiment import Experiment
from search.tested import why_untested
from spaces.problem import ConfigError, Problem


def check_test_split(experiment: Experiment) -> None:
    """A winner that is made again is measured on the test split, so there has to be one.

    Raises:
        ConfigError: the student's data has no test split.
    """
    if why := why_untested(experiment.recipe().student.data):
        message = (
            f"{why}, and reuse measures the winner there; name data with one "
            "(--data, --set data.source=...), or search on with --trials"
        )
        raise ConfigError([Problem("data.source", message)])
