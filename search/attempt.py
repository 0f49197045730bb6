"""One attempt at a student: what a trial does, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from search.assembly import rebuild
from search.experiment import Experiment
from search.library.store import Library
from search.make import make_all
from search.recipe import Recipe
from search.stage import Stage
from spaces.problem import plain_lines


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


def out_of_memory(error: BaseException) -> bool:
    """Whether a program, not its machine, ran out of memory: torch on a CPU has no type for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def reason(error: BaseException) -> str:
    """One line that says what went wrong, out-of-memory in plain words."""
    text = plain_lines(str(error))
    if out_of_memory(error):
        remedy = "a smaller batch_size or network, or fewer at once (run.concurrent), needs less"
        return ". ".join(["out of memory; " + remedy, *text[:1]])
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
