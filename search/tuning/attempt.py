"""Builds the student of one trial, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.core.metrics import LATENCY_METRIC
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.stages.core.stage import Stage

GOAL_METRIC = "stillhouse_goal"
"""In a trial's reports: the first goal's value, had the trial stopped after this epoch.

With ``keep: best`` it is the best epoch's. Schedulers compare trials by it.
"""


def run_trial(
    experiment: Experiment,
    graph: StageGraph,
    library: Library,
    heartbeat: Callable[[], None] = lambda: None,
    is_draining: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """Build a graph's student: a report an epoch, the last one with ``done`` and all figures.

    A report has :data:`GOAL_METRIC` if the goal is known after an epoch. Missing prerequisites (a
    single slot, a damaged artifact) are built first. ``heartbeat`` is called after every epoch of
    any stage. ``is_draining`` tells whether this machine is about to be taken away.
    """
    student, goal = graph.student, experiment.goals[0].figure
    for stage in graph.prerequisites:
        if not library.has(stage.key):
            for _ in build_stages([stage], library, is_draining):
                heartbeat()
    curve: list[dict[str, Any]] = []
    for stage, report in build_stages([student], library, is_draining):
        heartbeat()
        if stage is student:
            curve.append(dict(report))
            if report.get("epoch", 0) < student.operation.epochs:
                yield {**report, **_goal_of(goal, student.operation.metrics_so_far(curve))}
    record = library.record(student.key)
    assert record is not None
    figures = {**record.figures, **_measure_latency(experiment, student, library)}
    last_report = {**(curve[-1] if curve else {}), **figures}
    yield {**last_report, **_goal_of(goal, last_report), "done": True}


def _goal_of(goal: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    return {GOAL_METRIC: figures[goal]} if goal in figures else {}


def _measure_latency(experiment: Experiment, student: Stage, library: Library) -> dict[str, float]:
    """Latency on this worker's device, where the goal or a limit asks for it."""
    needed_figures = {goal.figure for goal in experiment.goals} | set(experiment.limits)
    if LATENCY_METRIC not in needed_figures:
        return {}
    artifact = library.open_artifact(student.key)
    return experiment.run.latency.measure(load_network(artifact), artifact.record.data.shape)
