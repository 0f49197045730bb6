"""Stages of several workers (``training: {workers: 4}``): where they may be, and their room."""

from __future__ import annotations

from collections.abc import Iterator

from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.setting_paths import parts
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.problems import ConfigError, Problem


def check_workers(experiment: Experiment, recipe: Recipe) -> Iterator[Problem]:
    """Whatever of them could not be as the file says."""
    for path in experiment.search:
        if path.endswith("training.workers"):
            message = "changes no result, so there is nothing to find; set it beside the stage"
            yield Problem(f"search.{path}", message)
    student, wish = recipe.student, experiment.run.resources
    if experiment.search and student.work.workers > 1:
        message = "is for stages that trials share; a trial runs on one worker: leave it out"
        yield Problem(_place(student), message)
    wide = [stage for stage in student.lineage() if stage.work.workers > 1]
    if wide and wish.gpu != int(wish.gpu):
        message = (
            f"{wide[0].label} has {wide[0].work.workers} workers, and each needs a GPU of its own, "
            f"found {wish.gpu:g}; set 1, or leave workers out"
        )
        yield Problem("run.resources.gpu", message)


def check_room(experiment: Experiment, slots: int) -> None:
    """All workers of a stage must find room at once.

    Args:
        slots: how many workers, or trials, the cluster has room for.

    Raises:
        ConfigError: there is less.
    """
    recipe = experiment.recipe()
    problems = []
    for stage in recipe.student.lineage():
        workers = stage.work.workers
        late = workers > 1 and _late(stage, experiment)
        if workers > 1 and workers + late > slots:
            beside = ", beside a trial that waits for them" if late else ""
            message = (
                f"{stage.label} asks for {workers} workers at once{beside}, and the nodes of this "
                f"cluster have room for {slots} of run.resources in all; ask for fewer, or set "
                "run.concurrent where nodes come when they are asked for"
            )
            problems.append(Problem(_place(stage), message))
    if problems:
        raise ConfigError(problems)


_CHOOSES = ("teacher", "teachers", "start", "images", "networks", "objective")
"""Searched fields with which a trial may rest on other stages than the one before it."""


def _late(stage: Stage, experiment: Experiment) -> bool:
    """Whether a search may ask for a stage when trials have begun: one of them keeps a slot."""
    searched = [parts(path) for path in experiment.search]
    if any(path[0] == "data" or path[-1] in _CHOOSES for path in searched):
        return True
    names = {each.label.partition("/")[0] for each in stage.lineage()}
    return any(path[0] in names for path in searched)


def _place(stage: Stage) -> str:
    """Where the file says over how many workers a stage is spread."""
    name, _, link = stage.label.partition("/")
    return f"stages.{name}.training.workers" if not link else f"stages.{name}"
