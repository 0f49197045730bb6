"""Checks of ``run:``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stillhouse.methods.core.training.train import Training
from stillhouse.search.core.metrics import COST_METRICS
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.initial_points import initial_points
from stillhouse.search.stages.chain import merge_settings
from stillhouse.spaces.config.domains import Choice, Integers
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message


def check_run(experiment: Experiment) -> Iterator[Problem]:
    """Settings that contradict each other or the rest of the experiment."""
    run, is_multi_objective = experiment.run, len(experiment.goals) > 1
    yield from _check_of_each(run.repeats.of_each, experiment)
    yield from _check_start(experiment)
    yield from _check_from_random(run.repeats.from_random)
    if run.scheduler.kind != "none":
        if is_multi_objective:
            yield Problem("run.scheduler", "needs a single goal; with several, remove it")
        elif experiment.goals[0].figure in COST_METRICS:
            figure = experiment.goals[0].figure
            yield Problem("run.scheduler", f"{figure} is not reported by epoch; remove it")


def _check_start(experiment: Experiment) -> Iterator[Problem]:
    start = experiment.run.start
    if experiment.run.neighbours and start != "file":
        yield Problem(
            "run.neighbours", "are neighbours of the values in the file; set start: file, too"
        )
    if start == "sampler":
        return
    if experiment.run.sampler.is_grid:
        yield Problem("run.start", "a grid tries only its own values; remove it")
    elif not initial_points(experiment):
        yield Problem("run.start", _NO_START[start])


_NO_START = {
    "file": "no value of the file is within the searched ranges; remove it",
    "presets": "no searched method has presets within the searched ranges; remove it "
    "(stillhouse methods NAME shows them)",
}


def _check_from_random(changes: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        Training.parse(merge_settings(Training().plain(), changes), "run.repeats.from_random")
    except ConfigError as error:
        yield from error.problems
    if "epochs" in changes:
        message = (
            "is computed: as many images as the student and its neighbourhoods were trained on"
        )
        yield Problem("run.repeats.from_random.epochs", message)
    if "workers" in changes:
        message = "does not change results; baselines have as many workers as the student"
        yield Problem("run.repeats.from_random.workers", message)


def _check_of_each(path: str | None, experiment: Experiment) -> Iterator[Problem]:
    if path is None:
        return
    field, domain = "run.repeats.of_each", experiment.search.get(path)
    countable_paths = [p for p, d in experiment.search.items() if isinstance(d, Choice | Integers)]
    if domain is None:
        yield Problem(field, unknown_message("searched path", path, countable_paths))
    elif path not in countable_paths or "*" in path:
        message = f"needs a path with a choice or integers, found {path} with {domain}"
        yield Problem(field, message)
