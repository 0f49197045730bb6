"""Stages of several workers (``training: {workers: 4}``): where they may be, and their room."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import split_path
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_workers(experiment: Experiment, graph: StageGraph) -> Iterator[Problem]:
    """Whatever of them could not be as the file says."""
    for path in experiment.search:
        if path.endswith("training.workers"):
            message = "changes no result, so there is nothing to find; set it beside the stage"
            yield Problem(f"search.{path}", message)
    student, resources = graph.student, experiment.run.resources
    if experiment.search and student.operation.workers > 1:
        message = "is for stages that trials share; a trial runs on one worker: leave it out"
        yield Problem(_workers_path(student), message)
    distributed = [stage for stage in student.ancestors() if stage.operation.workers > 1]
    if distributed and resources.gpu != int(resources.gpu):
        message = (
            f"{distributed[0].label} has {distributed[0].operation.workers} workers, and each needs a GPU of its own, "
            f"found {resources.gpu:g}; set 1, or leave workers out"
        )
        yield Problem("run.resources.gpu", message)


def check_worker_capacity(experiment: Experiment, num_slots: int) -> None:
    """All workers of a stage must find room at once.

    Args:
        slots: how many workers, or trials, the cluster has room for.

    Raises:
        ConfigError: there is less.
    """
    graph = experiment.stage_graph()
    problems = []
    for stage in graph.student.ancestors():
        workers = stage.operation.workers
        has_waiting_trial = workers > 1 and _may_be_requested_late(stage, experiment)
        if workers > 1 and workers + has_waiting_trial > num_slots:
            addition = ", beside a trial that waits for them" if has_waiting_trial else ""
            message = (
                f"{stage.label} asks for {workers} workers at once{addition}, and the nodes of this "
                f"cluster have room for {num_slots} of run.resources in all; ask for fewer, or set "
                "run.concurrent where nodes come when they are asked for"
            )
            problems.append(Problem(_workers_path(stage), message))
    if problems:
        raise ConfigError(problems)


_DEPENDENCY_FIELDS = ("teacher", "teachers", "start", "images", "networks", "objective")
"""Searched fields with which a trial may rest on other stages than the one before it."""


def _may_be_requested_late(stage: Stage, experiment: Experiment) -> bool:
    """Whether a search may ask for a stage when trials have begun: one of them keeps a slot."""
    searched_paths = [split_path(path) for path in experiment.search]
    if any(path[0] == "data" or path[-1] in _DEPENDENCY_FIELDS for path in searched_paths):
        return True
    names = {ancestor.label.partition("/")[0] for ancestor in stage.ancestors()}
    return any(path[0] in names for path in searched_paths)


def _workers_path(stage: Stage) -> str:
    """Where the file says over how many workers a stage is spread."""
    name, _, link = stage.label.partition("/")
    return f"stages.{name}.training.workers" if not link else f"stages.{name}"
