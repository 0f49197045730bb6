"""Checks of an experiment before anything runs; every problem is one line with its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stillhouse.search.experiment.checks.comparable import check_comparable
from stillhouse.search.experiment.checks.data import check_data
from stillhouse.search.experiment.checks.feasibility import unreachable_limits
from stillhouse.search.experiment.checks.figures import check_goal
from stillhouse.search.experiment.checks.paths import check_searched_paths, with_nearest_name
from stillhouse.search.experiment.checks.ranges import parse_search_space
from stillhouse.search.experiment.checks.run import check_run
from stillhouse.search.experiment.checks.stages import (
    check_link_names,
    check_names,
    check_stage_graph,
)
from stillhouse.search.experiment.checks.values import check_searched_values
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.screen_student import check_screen, check_screen_student
from stillhouse.search.experiment.variants import check_factorial
from stillhouse.spaces.config.problems import ConfigError, Problem

__all__ = ["check_experiment", "parse_search_space"]


def check_experiment(
    experiment: Experiment, earlier_problems: Iterable[Problem] = (), read_only: bool = False
) -> None:
    """Check everything about an experiment that is known before it runs.

    Args:
        earlier_problems: problems found while reading, reported with the others.
        read_only: nothing will run. Results of earlier versions, which let a search decide the
            validation images, stay readable.

    Raises:
        ConfigError: all problems, with paths into the file.
    """
    problems = [with_nearest_name(problem, experiment) for problem in earlier_problems]
    problems.extend(check_names(experiment))
    for check_part in (
        check_goal,
        check_run,
        check_screen,
        check_factorial,
        check_link_names,
        check_searched_paths,
    ):
        problems.extend(check_part(experiment))
    if experiment.final_name in experiment.stages:
        stage_problems = list(check_data(experiment)) or list(check_stage_graph(experiment))
        problems.extend(stage_problems or _check_expanded(experiment, read_only))
    if not problems:
        problems.extend(unreachable_limits(experiment))
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def _check_expanded(experiment: Experiment, read_only: bool) -> Iterator[Problem]:
    """Checks that need the stage graph of the values in the file."""
    yield from check_searched_values(experiment)
    if not read_only:
        yield from check_comparable(experiment)
    yield from check_screen_student(experiment)
