"""One attempt at a student: what a trial does, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.core.metrics import LATENCY_METRIC
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.stages.core.stage import Stage


def run_trial(
    experiment: Experiment,
    graph: StageGraph,
    library: Library,
    heartbeat: Callable[[], None] = lambda: None,
    is_draining: Callable[[], bool] = lambda: False,
) -> Iterator[dict[str, Any]]:
    """Make a recipe's student: a report an epoch, the last one with ``done`` and all figures.

    What the student rests on is normally there; where it is not (a single slot, a damaged
    artifact) it is made first, here. ``heartbeat`` is called after every epoch of anything;
    ``is_draining`` says whether this machine is about to be taken away.
    """
    student = graph.student
    for stage in graph.prerequisites:
        if not library.has(stage.key):
            for _ in build_stages([stage], library, is_draining):
                heartbeat()
    last_report: dict[str, Any] = {}
    for stage, report in build_stages([student], library, is_draining):
        heartbeat()
        if stage is student:
            last_report = dict(report)
            if last_report.get("epoch", 0) < student.operation.epochs:
                yield last_report
    record = library.record(student.key)
    assert record is not None
    yield {
        **last_report,
        **record.figures,
        **_measure_latency(experiment, student, library),
        "done": True,
    }


def _measure_latency(experiment: Experiment, student: Stage, library: Library) -> dict[str, float]:
    """Latency on this worker's device, where the goal or a limit asks for it."""
    needed_figures = {goal.figure for goal in experiment.goals} | set(experiment.limits)
    if LATENCY_METRIC not in needed_figures:
        return {}
    artifact = library.open_artifact(student.key)
    return experiment.run.latency.measure(load_network(artifact), artifact.record.data.shape)
