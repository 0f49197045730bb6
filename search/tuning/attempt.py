"""One attempt at a student: what a trial does, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import rebuild
from stillhouse.search.execution.builder import make_all
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.stages.core.stage import Stage


def run_trial(
    experiment: Experiment,
    recipe: Recipe,
    library: Library,
    heard: Callable[[], None] = lambda: None,
    leaving: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """Make a recipe's student: a report an epoch, the last one with ``done`` and all figures.

    What the student rests on is normally there; where it is not (a single slot, a damaged
    artifact) it is made first, here. ``heard`` is called after every epoch of anything;
    ``leaving`` says whether this machine is about to be taken away.
    """
    student = recipe.student
    for stage in recipe.prerequisites:
        if not library.has(stage.key):
            for _ in make_all([stage], library, leaving):
                heard()
    last: dict[str, Any] = {}
    for stage, report in make_all([student], library, leaving):
        heard()
        if stage is student:
            last = dict(report)
            if last.get("epoch", 0) < student.work.epochs:
                yield last
    record = library.record(student.key)
    assert record is not None
    yield {**last, **record.figures, **_measured(experiment, student, library), "done": True}


def _measured(experiment: Experiment, student: Stage, library: Library) -> dict[str, float]:
    """Latency on this worker's device, where the goal or a limit asks for it."""
    wanted = {goal.figure for goal in experiment.goals} | set(experiment.limits)
    if "latency_ms" not in wanted:
        return {}
    artifact = library.open(student.key)
    shape = tuple(artifact.record.facts["data"]["shape"])
    return experiment.run.latency.measure(rebuild(artifact), shape)
