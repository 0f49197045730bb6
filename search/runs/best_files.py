"""The best configurations of a run as experiment files: ``best.yaml``, and one for each group."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stillhouse.search.evaluation.finalists import first_seed
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.report.core.headline import limit_violations
from stillhouse.search.report.core.roles import group_label
from stillhouse.search.results.outcome import Outcome, SeedRuns, winner, winners_by_group


def best_files(experiment: Experiment, outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Name and text of each file; groups have files like ``best-parameters-67000.yaml``."""
    if best := winner(outcome):
        yield best_file_name(""), best_yaml(experiment, outcome, best)
    for group, group_winner in winners_by_group(outcome).items():
        if group:
            yield best_file_name(group), best_yaml(experiment, outcome, group_winner)


def best_file_name(group: str) -> str:
    """The file name of a group's best configuration; an empty group means the overall best."""
    parameter, _, value = group_label(group).partition(" ")
    return f"best-{slug(parameter)}-{slug(value)}.yaml" if group else "best.yaml"


def best_yaml(experiment: Experiment, outcome: Outcome, best: SeedRuns) -> str:
    """The winning configuration as an experiment file, its evidence in the header."""
    figure = outcome.goals[0].figure
    configuration = experiment.fixed_configuration(
        outcome.trial_values(best), f"{experiment.name}-best", first_seed(experiment)
    )
    seed, student = outcome.representative(best)
    header = [
        f"The best of {len(outcome.trials)} trials of {outcome.name} ({best.name}).",
        f"{figure} {best.mean(figure):.4f} +- {best.spread(figure):.4f} over "
        f"{_describe_seeds(best)}.",
        f"Student {student.key[:12]} (seed {seed}, the nearest to the mean), "
        f"{student.figures.get('parameters', 0):,.0f} parameters.",
        *limit_violations(outcome, best),
        "Paths are absolute: on another machine, change library, tracking, data.root, weights.",
    ]
    return "".join(f"# {line}\n" for line in header) + to_yaml(configuration)


def _describe_seeds(best: SeedRuns) -> str:
    listed = ", ".join(map(str, best.seeds))
    return f"{len(best.seeds)} seed{'s' * (len(best.seeds) != 1)} ({listed})"


def slug(text: str) -> str:
    """Text as part of a file name: ``67000`` for ``67,000``, word characters only."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=\d)[,_](?=\d)", "", text)).strip("_")
