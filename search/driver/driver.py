"""The driver of one launch: runs the trials, compares the finalists, and ends the search."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from stillhouse.methods.core.data.base.splits import Split
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import CorruptArtifact, Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.cluster.head import exit_process
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.core.provenance import versions
from stillhouse.search.driver.ending import FinalSteps, StateFile, failure_reason, no_result_reason
from stillhouse.search.driver.launched import LaunchRequest, LaunchResult
from stillhouse.search.driver.stopping import StopSignal
from stillhouse.search.evaluation.final_comparison import (
    FinalComparison,
    compare_finalists,
    complete_seed_runs,
    make_outcome,
)
from stillhouse.search.evaluation.test_split import test_accuracies
from stillhouse.search.execution.builder import build_stages
from stillhouse.search.experiment.checks.cautions import setup_warnings
from stillhouse.search.experiment.checks.ending import untestable_reason
from stillhouse.search.monitoring.dispatcher import EventDispatcher
from stillhouse.search.monitoring.events import (
    SearchEnded,
    SearchStarted,
    SearchState,
    WarningIssued,
)
from stillhouse.search.monitoring.mlflow import Tracker, is_prepared, prepare_store, resolve_uri
from stillhouse.search.monitoring.mlflow.model import check_name
from stillhouse.search.monitoring.publisher import MonitoredBackend, StatusPublisher
from stillhouse.search.monitoring.status import SearchStatus
from stillhouse.search.monitoring.teachers import TeacherMonitor
from stillhouse.search.results.outcome import Outcome, TrialResult, winner
from stillhouse.search.results.statistics import ranking
from stillhouse.search.runs.result import existing_records
from stillhouse.search.runs.results import write_outcome_data, write_pages
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.tuning.local_backend import LocalBackend
from stillhouse.search.tuning.recorder import TrialRecorder
from stillhouse.search.tuning.study import Study

MLFLOW_START_DELAY_S = 8.0
"""Seconds before the first call to an MLflow store that is already prepared."""


class ExecutionBackend(MonitoredBackend, Protocol):
    """Builds stages and runs trials: in this process, or on a Ray cluster."""

    def build(self, stages: Sequence[Stage]) -> dict[str, str]: ...

    def run_trials(self, recorder: TrialRecorder, num_trials: int) -> bool: ...

    def close(self) -> None: ...


class Driver:
    """One launch, with its study, library, tracker and event dispatcher."""

    def __init__(self, request: LaunchRequest, state: StateFile, stop: StopSignal) -> None:
        experiment, folder = request.experiment, request.folder
        self.experiment = experiment
        self.measure_test = request.measure_test
        self.resumed = request.resumed
        self.folder = folder
        self.state = state
        self.stop = stop
        self.library = Library(experiment.library)
        self.library.check_writable()
        self.tracking_uri = resolve_uri(experiment.tracking, Path.cwd())
        self.final_steps = FinalSteps(folder, self.tracking_uri, experiment.study)
        self.comparison = FinalComparison()
        is_known = is_prepared(self.tracking_uri, experiment.name)
        # A new database takes seconds, like the start of Ray, so both happen at the same time.
        self.mlflow_setup = (
            None if is_known else _run_in_thread(prepare_store, self.tracking_uri, experiment.name)
        )
        delay = MLFLOW_START_DELAY_S if is_known else 0.0
        self.tracker = Tracker(
            self.tracking_uri, experiment.name, folder.path, dict(versions()), delay
        )
        self.status_publisher = StatusPublisher(
            SearchStatus(experiment),
            folder,
            self.library,
            self.tracker.state,
            state.previous_seconds,
        )
        self.dispatch = EventDispatcher(
            (self.tracker, self.status_publisher, *request.observers), TeacherMonitor()
        )
        try:
            self.study = Study(experiment, folder.path)
        except BaseException:
            self.tracker.close(timeout=5.0)  # another process may have the run
            raise

    def run(self, address: str | None, inline: bool) -> LaunchResult:
        """Run the search from its first event to its result."""
        try:
            return self._run(address, inline)
        finally:
            self.study.close()

    def _run(self, address: str | None, inline: bool) -> LaunchResult:
        recorder = TrialRecorder(self.study, self.library, self.dispatch)
        self.state.write("running")
        try:
            self.dispatch(self._start_event())
            for warning in setup_warnings(self.experiment):
                self.dispatch(WarningIssued(warning.path, warning.message))
            if self._search(address, inline, recorder):
                with self.stop.handling_sigterm():
                    return self._finish(self._outcome())
        except BaseException as error:
            if not self.stop.is_cause_of(error):
                self._fail(error)
                raise
        self.state.write("interrupted")
        with self.stop.handling_sigterm():
            return self._finish_interrupted(recorder)

    def _search(self, address: str | None, inline: bool, recorder: TrialRecorder) -> bool:
        """Run the trials, then compare the finalists. False if the search was stopped."""
        with (
            self._open_backend(address, inline) as backend,
            self.status_publisher.monitor(backend),
            # Again, because Ray installs its own handler when it starts.
            self.stop.handling_sigterm(),
        ):
            if self.mlflow_setup is not None:
                self.mlflow_setup.result()
            if not backend.run_trials(recorder, self.experiment.trials):
                return False
            self.comparison = compare_finalists(
                self.experiment, self._outcome(), self.library, backend.build
            )
        return True

    def _start_event(self) -> SearchStarted:
        outcome = self._outcome()
        self.status_publisher.needs.add(outcome.records)
        ended_by_state = Counter[str](t.state for t in outcome.trials if t.state != "running")
        first = next(iter(ranking(outcome)), None)
        best = (first.figures[outcome.goals[0].figure], first.number) if first else None
        document, num_trials = self.experiment.plain(), self.experiment.trials
        return SearchStarted(
            self.folder.name, document, self.resumed, ended_by_state, best, num_trials
        )

    @contextlib.contextmanager
    def _open_backend(self, address: str | None, inline: bool) -> Iterator[ExecutionBackend]:
        backend: ExecutionBackend
        if inline:
            backend = LocalBackend(self.experiment, self.library, self.dispatch)
        else:
            # Imported here, so that an inline run does not wait for Ray.
            from stillhouse.search.tuning.ray_backend import RayBackend

            backend = RayBackend(
                self.experiment,
                self.library,
                self.dispatch,
                self.folder.path,
                address,
                stores={"tracking": self.tracking_uri, "study": self.experiment.study or ""},
                on_cluster_lost=self._exit_on_cluster_lost,
            )
        try:
            yield backend
        finally:
            backend.close()

    def _exit_on_cluster_lost(self, message: str) -> None:
        """Record the failure and exit, before Ray ends this process within seconds."""
        error = StorageUnavailable(
            "--address", f"{message}; then stillhouse resume {self.folder.name} --address ..."
        )
        event = SearchEnded("failed", str(error))
        steps = (lambda: self.state.write("failed", str(error)), lambda: self.dispatch(event))
        exit_process(
            error, [*steps, lambda: self.tracker.close(timeout=5.0), self.status_publisher.write]
        )

    def _outcome(self) -> Outcome:
        """The outcome so far."""
        trials, finalists = self.study.trials(), self.comparison.finalists
        records = self._records(trials)
        return make_outcome(
            self.experiment,
            self.folder.name,
            trials,
            records,
            seed_runs=complete_seed_runs(finalists, self.library),
            importances=self.study.importances(),
            seconds=self.state.seconds,
            made_keys=self.dispatch.made_keys,
            reused_keys=self.dispatch.reused_keys,
            variances=self.comparison.variances(records),
        )

    def _records(self, trials: Sequence[TrialResult]) -> dict[str, Record]:
        """The records of every stage of this search that is in the library, by key."""
        keys = {key for trial in trials for key in trial.stage_keys.values()}
        keys |= {key for trial in trials if trial.screen for key in trial.screen.keys}
        return existing_records(self.library, keys | self.comparison.stage_keys())

    # The end

    def _finish(self, outcome: Outcome) -> LaunchResult:
        """Write and track the outcome of a whole search; a step that fails stops no other."""
        steps, files = self.final_steps, list[Path]()
        with steps.step("writing the outcome"):
            files += write_outcome_data(self.experiment, outcome, self.folder)
        with steps.step("registering the needed artifacts"):
            self.status_publisher.needs.add_and_write(outcome.records)
        notes: list[str] = []
        if self.measure_test:
            with steps.step("evaluating the test split"):
                outcome = self._with_test_figures(outcome, notes)
                write_outcome_data(self.experiment, outcome, self.folder)
        with steps.step("drawing the report"):
            files += write_pages(self.experiment, outcome, self.folder)
        with steps.step("sending the outcome to MLflow"):
            self._log_outcome(outcome, files)
        with steps.step("saving the winner's model"):
            self._log_winner(outcome)
        reason = "; ".join(
            filter(
                None,
                (no_result_reason(outcome, self.comparison.failed_repeats), self._failed_steps()),
            )
        )
        return self._close("failed" if reason else "finished", outcome, reason, tuple(notes))

    def _failed_steps(self) -> str:
        """The failed final steps, and the command that repeats them."""
        reason = self.final_steps.reason
        return f"{reason}; repair that, then stillhouse resume {self.folder.name}" if reason else ""

    def _finish_interrupted(self, recorder: TrialRecorder) -> LaunchResult:
        with self.final_steps.step("recording the running trials"):
            recorder.record_interruption()
        outcome = self._outcome()
        with self.final_steps.step("registering the needed artifacts"):
            self.status_publisher.needs.add_and_write(outcome.records)
        return self._close("interrupted", outcome)

    def _close(
        self, state: SearchState, outcome: Outcome, reason: str = "", notes: tuple[str, ...] = ()
    ) -> LaunchResult:
        """Publish the final state, and send the pending tracking entries."""
        with self.final_steps.step("publishing the end of the search"):
            self.dispatch(SearchEnded(state, reason))
        self.state.write(state, reason)
        unsent = self._flush_tracker(60.0 if state == "finished" else 15.0)
        self.status_publisher.close()
        return LaunchResult(self.folder, state, outcome, self.tracking_uri, unsent, reason, notes)

    def _flush_tracker(self, timeout: float) -> int:
        """Send pending entries; Ctrl-C ends only the wait. Returns the number still unsent."""
        try:
            return self.tracker.close(timeout)
        except KeyboardInterrupt:
            return self.tracker.num_pending

    def _fail(self, error: BaseException) -> None:
        """Publish the failure of the search itself; the caller raises the error again."""
        reason = failure_reason(error, self.folder, self.tracking_uri, self.experiment.study)
        self.state.write("failed", reason)
        with self.final_steps.step("publishing the end of the search"):
            self.dispatch(SearchEnded("failed", reason))
        self.tracker.close(timeout=10.0)
        self.status_publisher.close()

    def _with_test_figures(self, outcome: Outcome, notes: list[str]) -> Outcome:
        """The outcome with test accuracies; without them, a note says why."""
        data = self.experiment.stage_graph().student.data
        if reason := untestable_reason(data):
            notes.append(f"no test figures: {reason}")
            return outcome
        tests = {
            r.name: test_accuracies(r.records, data, self._open_artifact) for r in outcome.seed_runs
        }
        return replace(outcome, test_accuracies=tests)

    def _log_outcome(self, outcome: Outcome, files: Sequence[Path]) -> None:
        best = winner(outcome)
        if best is None:
            self.tracker.log_outcome(outcome, files, {})
            return
        number = int(best.role.removeprefix("trial "))
        tests = outcome.test_accuracies.items()
        test_figures = {
            f"test_{n.replace(',', '')}": statistics.fmean(values) for n, values in tests
        }
        self.tracker.log_outcome(outcome, files, {**best.summary(), **test_figures}, number)

    def _log_winner(self, outcome: Outcome) -> None:
        best = winner(outcome)
        if best is None:
            return
        record = outcome.representative(best)[1]
        data = self.experiment.stage_graph(outcome.trial_values(best)).student.data
        self.tracker.log_winner(
            load_network(self._open_artifact(record.key)),
            example_images(data),
            classes=record.data.class_names,
            register=self._registered_name(),
        )

    def _registered_name(self) -> str | None:
        """The winner's name in the registry; None without a valid name."""
        name = self.experiment.run.register_as
        if name is not None:
            with self.final_steps.step("registering the winner"):
                check_name(name)
                return name
        return None

    def _open_artifact(self, key: str) -> Artifact:
        """The artifact of a finalist's student; built again here if it is damaged or deleted."""
        try:
            return self.library.open_artifact(key)
        except (CorruptArtifact, KeyError):
            for _ in build_stages([self.comparison.students[key]], self.library):
                pass
            return self.library.open_artifact(key)


def _run_in_thread(work: Callable[..., Any], *args: Any) -> Future[Any]:
    """Start ``work`` in a new thread."""
    return ThreadPoolExecutor(1).submit(work, *args)


def example_images(data: DataConfig) -> Tensor:
    """At least two images for the model's input example, from the validation split if any."""
    dataset = open_data(data)
    split: Split = "validation" if dataset.facts.sizes["validation"] else "train"
    images = next(dataset.batches(split, batch_size=4, device="cpu")).images
    # With a single example, an export would fix the batch size at 1.
    return images if len(images) > 1 else images.repeat(2, 1, 1, 1)
