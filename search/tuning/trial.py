"""A trial: builds the student of a stage graph on a worker."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from ray import tune

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cluster.preemption import is_draining
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.execution.failures import reason
from stillhouse.search.execution.waiting import StageFailed, await_stages
from stillhouse.search.execution.watchdog import stage_watchdog
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.screen_student import screen_student
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.attempt import run_trial
from stillhouse.search.tuning.scheduling import ENDED_KEY


class TrialTrainable(tune.Trainable):
    """Tune's view of a trial. Actors are reused: data and teachers stay on the device.

    A step is an epoch. Whatever goes wrong is returned as a result with ``failed``, so that one
    bad configuration never ends the search; only a lost worker is Tune's to retry, and then the
    student goes on from its last saved epoch. A stage that the trial waits for and that finds no
    slot is made here (:mod:`stillhouse.search.execution.takeover`). One that hangs ends itself, to
    be lost. ``lost`` instead: the library cannot be used, and the search is to stop. An ``idle``
    one only waits for its configuration's student on distilled data.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters adds the last two
        self, config: dict[str, Any], experiment: Experiment, library: str
    ) -> None:
        self._experiment = experiment
        self._library = Library(library, must_exist=True)
        torch.set_num_threads(max(1, int(experiment.run.resources.cpu)))
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._values, self._is_idle = new_config["values"], new_config.get("idle", False)
        self._reports: Iterator[dict[str, float]] | None = None
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self._is_idle:
                self._await_stages([screen_student(self._experiment, self._values)])
                return {ENDED_KEY: True}
            if self._reports is None:
                graph = self._experiment.stage_graph(self._values)
                self._await_stages(graph.prerequisites, graph.student)
                heartbeat = self._watchdog.heartbeat
                self._reports = run_trial(
                    self._experiment, graph, self._library, heartbeat, is_draining
                )
            with self._watchdog:
                report = dict(next(self._reports))
            is_last = bool(report.pop("done", False))
            return {ENDED_KEY: is_last, **report}
        except StorageUnavailable as unavailable:
            return {"lost": unavailable.problem.message, ENDED_KEY: True}
        except StageFailed as stage_failure:
            return {"failed": str(stage_failure), ENDED_KEY: True}
        except Exception as error:
            traceback.print_exc()
            return {"failed": reason(error), ENDED_KEY: True}

    def _await_stages(self, stages: Sequence[Stage], student: Stage | None = None) -> None:
        """Wait for stages; a hanging one that is made here is told as the student's."""
        student = student or stages[-1]
        hang_after = self._experiment.run.hang_after
        self._watchdog = stage_watchdog(self._library, student.key, hang_after)
        await_stages(self._library, stages, self._watchdog, is_draining)

    def cleanup(self) -> None:
        self._reports = None
