"""What must hold before anything runs; every violation is one line that names its remedy."""

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
    """Everything about an experiment that can be known before it runs.

    Args:
        known: problems that were found on the way here, to be told with the others.
        only_read: the experiment ran before and nothing of it will run. Earlier versions let a
            search decide the validation images, and its figures stay readable.

    Raises:
        ConfigError: all that is wrong, with paths into the file.
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
    """What can be told only of an experiment whose own values can be laid out."""
    yield from check_searched_values(experiment)
    if not read_only:
        yield from check_comparable(experiment)
    yield from check_screen_student(experiment)
