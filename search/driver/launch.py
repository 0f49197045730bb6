"""Launches, resumes and extends searches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stillhouse.search.core.addresses import credential_remedy, has_secret
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.driver.driver import Driver
from stillhouse.search.driver.ending import StateFile, failure_reason, unwritable
from stillhouse.search.driver.launched import LaunchRequest, LaunchResult, SearchFailed
from stillhouse.search.driver.resuming import check_unchanged
from stillhouse.search.driver.stopping import StopSignal
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.yaml_source import with_end_mark
from stillhouse.search.monitoring.events import Observer
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.kept import has_artifacts, load_run, run_library
from stillhouse.search.runs.locations import with_absolute_paths
from stillhouse.search.tuning.storage import check_study_database

log = logging.getLogger(__name__)


def launch(
    experiment: Experiment,
    *,
    address: str | None = None,
    inline: bool = False,
    observers: Sequence[Observer] = (),
    test: bool = False,
) -> LaunchResult:
    """Run a search from its beginning to its report.

    Relative paths in the experiment are resolved from the working folder.

    Args:
        experiment: from ``stillhouse.load_experiment``.
        address: a Ray cluster; None starts Ray on this machine.
        inline: run everything in this process, without Ray.
        observers: called with every event, on the driver; must return at once.
        test: also measure the repeated configurations on the test split. Only ``reuse`` sets
            it: a search must not choose by the test split.

    Raises:
        ConfigError: the library, the tracking store, the study's database or the cluster cannot
            be used.
        StorageUnavailable: the library, the study's database or the run folder became
            unavailable for good.
        SearchFailed: no trial finished, or a final step failed.
    """
    experiment = with_absolute_paths(experiment, Path.cwd())
    _check_study_address(experiment)
    folder = RunFolder.new(experiment.name)
    return _run_launch(LaunchRequest(experiment, folder, observers, test), address, inline)


def resume(
    name: str,
    *,
    address: str | None = None,
    inline: bool = False,
    trials: int = 0,
    observers: Sequence[Observer] = (),
) -> LaunchResult:
    """Continue a run that was stopped, or extend a run that has ended by ``trials``.

    Finished stages and trials are not repeated. Interrupted ones continue from their last saved
    epoch, in the same MLflow runs.

    Raises:
        ConfigError: there is no such run, another process runs it, its experiment is no longer
            valid, its trials would have other keys today, or its artifacts are missing.
        StorageUnavailable, SearchFailed: as :func:`launch`.
    """
    folder = RunFolder.find(name)
    experiment = load_run(folder)
    if has_artifacts(folder):
        run_library(folder, experiment)
    _check_study_address(experiment)
    check_unchanged(experiment, folder)
    if trials:
        run = experiment.run.model_copy(update={"trials": experiment.run.trials + trials})
        experiment = replace(experiment, run=run)
    return _run_launch(LaunchRequest(experiment, folder, observers, resumed=True), address, inline)


def _run_launch(request: LaunchRequest, address: str | None, inline: bool) -> LaunchResult:
    """Run a search in its existing folder, and keep its state file up to date.

    Raises:
        ConfigError, StorageUnavailable, SearchFailed: as :func:`launch`.
        KeyboardInterrupt: it was stopped before its start.
    """
    folder, stop = request.folder, StopSignal()
    try:
        with folder.locked():  # a second driver is refused before anything is written
            state = StateFile(folder)
            if not request.resumed:
                _write_experiment(request)
            with stop.handling_sigterm():
                driver = _make_driver(request, state, stop)
                if request.resumed:
                    _write_experiment(request)
                result = driver.run(address, inline)
    except StorageUnavailable as unavailable:
        raise _with_resume_hint(unavailable, folder) from None
    except Exception as error:
        if lost_folder := unwritable(error, folder):
            raise _with_resume_hint(lost_folder, folder) from None
        raise
    if result.state == "failed":
        raise SearchFailed(result)
    return result


def _make_driver(request: LaunchRequest, state: StateFile, stop: StopSignal) -> Driver:
    """The driver of a launch. If it cannot be made, the state file says why.

    Raises:
        ConfigError: the library or the study cannot be used, or another process has the run.
        KeyboardInterrupt: the user stopped it; the message has the command that resumes.
    """
    try:
        return Driver(request, state, stop)
    except BaseException as error:
        was_stopped = stop.is_cause_of(error)
        if not state.previous_state:  # a run with a state keeps it
            addresses = request.experiment.tracking, request.experiment.study
            reason = "" if was_stopped else failure_reason(error, request.folder, *addresses)
            state.write("interrupted" if was_stopped else "failed", reason)
        if was_stopped:
            raise KeyboardInterrupt(resume_hint(request.folder.name)) from None
        raise


def _write_experiment(request: LaunchRequest) -> None:
    """Write the experiment into the run folder, unless the file is equal."""
    text, file = to_yaml(request.experiment.plain()), request.folder.path / "experiment.yaml"
    if not file.exists() or file.read_text(encoding="utf-8") != with_end_mark(text):
        request.folder.write_yaml(file.name, text)


def resume_hint(name: str) -> str:
    """The line for a stopped run, with the command that resumes it."""
    return f"{name} was stopped; go on with: stillhouse resume {name}"


def _with_resume_hint(error: StorageUnavailable, folder: RunFolder) -> StorageUnavailable:
    """The error with the command that resumes the run."""
    storage, message = error.problem.path, error.problem.message
    return StorageUnavailable(storage, f"{message}; then stillhouse resume {folder.name}")


def _check_study_address(experiment: Experiment) -> None:
    """Connect to the study's database before the start; warn of passwords that are not kept."""
    if experiment.study:
        check_study_database(experiment.study)
    for field, uri in {"tracking": experiment.tracking, "study": experiment.study}.items():
        if uri and has_secret(uri):
            message = "the password in `%s:` is not kept with the run; for a resume, %s"
            log.warning(message, field, credential_remedy(uri))
