"""What must hold of the data of an experiment and of its stages."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import data_for
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_data(experiment: Experiment) -> Iterator[Problem]:
    shared = list(data_problems(experiment.data, "data"))
    yield from shared
    for name, entry in experiment.entries.items():
        if entry.data and not shared:
            try:
                yield from data_problems(data_for(entry, experiment.data), f"stages.{name}.data")
            except ConfigError as error:
                yield from error.under(f"stages.{name}").problems


def data_problems(data: DataConfig, place: str) -> Iterator[Problem]:
    try:
        facts(data)
    except ConfigError as error:
        for problem in error.problems:
            inner = problem.path.removeprefix("data").removeprefix(".")
            yield Problem(f"{place}.{inner}" if inner else place, problem.message)
