"""What would only fail at the end of a run, after all training."""

from __future__ import annotations

from methods.core.data.facts import facts, opened
from search.experiment import Experiment
from spaces.problem import ConfigError, Problem


def check_test_split(experiment: Experiment) -> None:
    """A winner that is made again is measured on the test split, so there has to be one.

    Raises:
        ConfigError: the student's data has no test split, or its labels are hidden (negative).
    """
    data = experiment.recipe().student.data
    name, _ = data.origin()
    if not facts(data).sizes["test"]:
        message = (
            f"{name} has no test split, and reuse measures the winner there; name data with one "
            "(--data, --set data.source=...), or search on with --trials"
        )
        raise ConfigError([Problem("data.source", message)])
    if (opened(data).labels("test") < 0).any():
        message = (
            f"the test labels of {name} are hidden (below 0), and reuse measures the winner by "
            "them; name data with known ones, or search on with --trials"
        )
        raise ConfigError([Problem("data.source", message)])
