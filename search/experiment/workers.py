"""Checks of stages with several workers (``training: {workers: 4}``)."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import split_path
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_workers(experiment: Experiment, graph: StageGraph) -> Iterator[Problem]:
    """Problems of stages with several workers."""
    for path in experiment.search:
        if path.endswith("training.workers"):
            message = "does not change results; set it in the stage instead of searching it"
            yield Problem(f"search.{path}", message)
    student, resources = graph.student, experiment.run.resources
    if experiment.search and student.operation.workers > 1:
        message = "is for stages that trials share; a trial runs on one worker, so remove it"
        yield Problem(_workers_path(student), message)
    distributed = [stage for stage in student.ancestors() if stage.operation.workers > 1]
    if distributed and resources.gpu != int(resources.gpu):
        message = (
            f"{distributed[0].label} has {distributed[0].operation.workers} workers, and each "
            f"needs a whole GPU, found {resources.gpu:g}; set 1, or remove workers"
        )
        yield Problem("run.resources.gpu", message)


def check_worker_capacity(experiment: Experiment, num_slots: int) -> None:
    """Check that all workers of a stage can run at once.

    Args:
        num_slots: number of workers or trials that the cluster can run at once.

    Raises:
        ConfigError: there are too few slots.
    """
    graph = experiment.stage_graph()
    problems = []
    for stage in graph.student.ancestors():
        workers = stage.operation.workers
        has_waiting_trial = workers > 1 and _may_be_requested_late(stage, experiment)
        if workers > 1 and workers + has_waiting_trial > num_slots:
            addition = ", and a trial waits for them" if has_waiting_trial else ""
            message = (
                f"{stage.label} needs {workers} workers at once{addition}, but the nodes of this "
                f"cluster have {num_slots} slots of run.resources; set fewer workers, or set "
                "run.concurrent if the cluster adds nodes on demand"
            )
            problems.append(Problem(_workers_path(stage), message))
    if problems:
        raise ConfigError(problems)


_DEPENDENCY_FIELDS = ("teacher", "teachers", "start", "images", "networks", "objective")
"""Searched fields that may give trials different ancestors."""


def _may_be_requested_late(stage: Stage, experiment: Experiment) -> bool:
    """Whether a search may request the stage while a waiting trial occupies a slot."""
    searched_paths = [split_path(path) for path in experiment.search]
    if any(path[0] == "data" or path[-1] in _DEPENDENCY_FIELDS for path in searched_paths):
        return True
    names = {ancestor.label.partition("/")[0] for ancestor in stage.ancestors()}
    return any(path[0] in names for path in searched_paths)


def _workers_path(stage: Stage) -> str:
    """Path of the number of workers of a stage in the file."""
    name, _, link = stage.label.partition("/")
    return f"stages.{name}.training.workers" if not link else f"stages.{name}"
