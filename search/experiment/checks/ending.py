"""What would only fail at the end of a run, after all training."""

from __future__ import annotations

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.spaces.config.problems import ConfigError, Problem


def require_test_split(experiment: Experiment) -> None:
    """A winner that is made again is measured on the test split, so there has to be one.

    Raises:
        ConfigError: the student's data has no test split.
    """
    if reason := untestable_reason(experiment.stage_graph().student.data):
        message = (
            f"{reason}, and reuse measures the winner there; name data with one "
            "(--data, --set data.source=...), or search on with --trials"
        )
        raise ConfigError([Problem("data.source", message)])


def untestable_reason(data: DataConfig) -> str:
    """Why nothing can be measured on the test split of ``data``; empty where it can.

    Test labels that are kept to themselves, as -1, are refused where the data is opened.
    """
    name, _ = data.named_source()
    return "" if facts(data).sizes["test"] else f"{name} has no test split"
