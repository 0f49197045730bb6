"""Checks of what would otherwise fail at the end of a run, after all training."""

from __future__ import annotations

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.spaces.config.problems import ConfigError, Problem


def require_test_split(experiment: Experiment) -> None:
    """Check that there is a test split, on which a repeated winner is measured.

    Raises:
        ConfigError: the student's data has no test split.
    """
    if reason := untestable_reason(experiment.stage_graph().student.data):
        message = (
            f"{reason}, but reuse measures the winner there; use data with a test split "
            "(--data, --set data.source=...), or continue the search with --trials"
        )
        raise ConfigError([Problem("data.source", message)])


def untestable_reason(data: DataConfig) -> str:
    """Why ``data`` has no usable test split; empty if it has one.

    Opening the data refuses hidden test labels, which are -1.
    """
    name, _ = data.named_source()
    return "" if facts(data).sizes["test"] else f"{name} has no test split"
