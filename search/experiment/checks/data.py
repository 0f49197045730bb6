"""Checks of the data of an experiment and of its stages."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import data_config_for
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_data(experiment: Experiment) -> Iterator[Problem]:
    data_faults = list(data_problems(experiment.data, "data"))
    yield from data_faults
    for name, stage_config in experiment.stage_configs.items():
        if stage_config.data and not data_faults:
            try:
                yield from data_problems(
                    data_config_for(stage_config, experiment.data), f"stages.{name}.data"
                )
            except ConfigError as error:
                yield from error.with_prefix(f"stages.{name}").problems


def data_problems(data: DataConfig, location: str) -> Iterator[Problem]:
    try:
        facts(data)
    except ConfigError as error:
        for problem in error.problems:
            inner_path = problem.path.removeprefix("data").removeprefix(".")
            yield Problem(f"{location}.{inner_path}" if inner_path else location, problem.message)
