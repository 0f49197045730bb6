"""What must hold before anything runs; every violation is one line that names its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stillhouse.search.experiment.checks.comparable import check_comparable
from stillhouse.search.experiment.checks.data import check_data
from stillhouse.search.experiment.checks.feasibility import out_of_reach
from stillhouse.search.experiment.checks.figures import check_goal
from stillhouse.search.experiment.checks.paths import check_paths, with_nearest
from stillhouse.search.experiment.checks.ranges import read_space
from stillhouse.search.experiment.checks.run import check_run
from stillhouse.search.experiment.checks.stages import check_links, check_names, check_recipe
from stillhouse.search.experiment.checks.values import check_values
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.screen_student import check_screen, check_screen_student
from stillhouse.search.experiment.variants import check_factorial
from stillhouse.spaces.config.problems import ConfigError, Problem

__all__ = ["check", "read_space"]


def check(experiment: Experiment, known: Iterable[Problem] = (), only_read: bool = False) -> None:
    """Everything about an experiment that can be known before it runs.

    Args:
        known: problems that were found on the way here, to be told with the others.
        only_read: the experiment ran before and nothing of it will run. Earlier versions let a
            search decide the validation images, and its figures stay readable.

    Raises:
        ConfigError: all that is wrong, with paths into the file.
    """
    problems = [with_nearest(problem, experiment) for problem in known]
    problems.extend(check_names(experiment))
    for part in (check_goal, check_run, check_screen, check_factorial, check_links, check_paths):
        problems.extend(part(experiment))
    if experiment.final in experiment.stages:
        unsound = list(check_data(experiment)) or list(check_recipe(experiment))
        problems.extend(unsound or _check_laid_out(experiment, only_read))
    if not problems:
        problems.extend(out_of_reach(experiment))
    if problems:
        raise ConfigError(dict.fromkeys(problems))


def _check_laid_out(experiment: Experiment, only_read: bool) -> Iterator[Problem]:
    """What can be told only of an experiment whose own values can be laid out."""
    yield from check_values(experiment)
    if not only_read:
        yield from check_comparable(experiment)
    yield from check_screen_student(experiment)
