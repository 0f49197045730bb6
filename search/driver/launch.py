"""From an experiment to an outcome: launch, resume, extend."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stillhouse.search.core.addresses import has_secret, remedy_of
from stillhouse.search.core.errors import Lost
from stillhouse.search.driver.driver import Driver
from stillhouse.search.driver.ending import StateFile, told_reason, unwritable
from stillhouse.search.driver.launched import Launch, Launched, SearchFailed
from stillhouse.search.driver.resuming import check_unchanged
from stillhouse.search.driver.stopping import Stop
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.yaml_source import with_end
from stillhouse.search.monitoring.events import Observer
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.kept import has_made, library_of, load_run
from stillhouse.search.runs.locations import fixed
from stillhouse.search.tuning.storage import check_study

log = logging.getLogger(__name__)


def launch(
    experiment: Experiment,
    *,
    address: str | None = None,
    inline: bool = False,
    observers: Sequence[Observer] = (),
    test: bool = False,
) -> Launched:
    """Run a search from its beginning to its report.

    Relative places in the experiment are resolved from the working folder now, once and for all.

    Args:
        experiment: from :func:`stillhouse.load_experiment`.
        address: of a Ray cluster; none starts Ray on this machine.
        inline: everything in this process, without Ray.
        observers: called with every event, on the driver; must return at once.
        test: also measure the repeated configurations on the test split. Only ``reuse`` does:
            a search that looked at it could choose by it.

    Raises:
        ConfigError: the library, the tracking store, the study's database or the cluster cannot
            be used.
        Lost: the library, the study's database or the run's folder failed on the way and did not
            come back.
        SearchFailed: no trial finished, or something failed when the search had ended.
    """
    experiment = fixed(experiment, Path.cwd())
    _check_study(experiment)
    folder = RunFolder.new(experiment.name)
    return _launched(Launch(experiment, folder, observers, test), address, inline)


def resume(
    name: str,
    *,
    address: str | None = None,
    inline: bool = False,
    trials: int = 0,
    observers: Sequence[Observer] = (),
) -> Launched:
    """Go on with a run that was stopped, or with ``trials`` more of one that had ended.

    Finished stages and trials are not repeated; what was running goes on from its last saved
    epoch, in the same MLflow runs.

    Raises:
        ConfigError: there is no such run, another process runs it, its experiment is no longer
            valid, its trials would be others today, as on other data, or its library has none of
            its artifacts.
        Lost, SearchFailed: as :func:`launch`.
    """
    folder = RunFolder.find(name)
    experiment = load_run(folder)
    if has_made(folder):
        library_of(folder, experiment)
    _check_study(experiment)
    check_unchanged(experiment, folder)
    if trials:
        run = experiment.run.model_copy(update={"trials": experiment.run.trials + trials})
        experiment = replace(experiment, run=run)
    return _launched(Launch(experiment, folder, observers, resumed=True), address, inline)


def _launched(asked: Launch, address: str | None, inline: bool) -> Launched:
    """Run a search whose folder is there. Its state is told from the first moment on.

    Raises:
        ConfigError, Lost, SearchFailed: as :func:`launch`.
        KeyboardInterrupt: it was stopped before it began.
    """
    folder, stop = asked.folder, Stop()
    try:
        with folder.held():  # a second driver is refused before anything is written
            state = StateFile(folder)
            if not asked.resumed:
                _write(asked)
            with stop.by_signal():
                driver = _begun(asked, state, stop)
                if asked.resumed:
                    _write(asked)
                launched = driver.run(address, inline)
    except Lost as lost:
        raise _resumable(lost, folder) from None
    except Exception as error:
        if lost_folder := unwritable(error, folder):
            raise _resumable(lost_folder, folder) from None
        raise
    if launched.state == "failed":
        raise SearchFailed(launched)
    return launched


def _begun(asked: Launch, state: StateFile, stop: Stop) -> Driver:
    """The driver with all its parts.

    Raises:
        ConfigError: the library or the study cannot be used, or another process has the run.
        KeyboardInterrupt: a stop; its message says how to go on.
    """
    try:
        return Driver(asked, state, stop)
    except BaseException as error:
        stopped = stop.caused(error)
        if not state.before:  # of a run that had a state, nothing has changed
            places = asked.experiment.tracking, asked.experiment.study
            reason = "" if stopped else told_reason(error, asked.folder, *places)
            state.note("interrupted" if stopped else "failed", reason)
        if stopped:
            raise KeyboardInterrupt(how_to_go_on(asked.folder.name)) from None
        raise


def _write(asked: Launch) -> None:
    """Keep what was asked; a file that says so already stays as it is."""
    text, file = to_yaml(asked.experiment.plain()), asked.folder.path / "experiment.yaml"
    if not file.exists() or file.read_text(encoding="utf-8") != with_end(text):
        asked.folder.write_yaml(file.name, text)


def how_to_go_on(name: str) -> str:
    """What is said of a run that was stopped."""
    return f"{name} was stopped; go on with: stillhouse resume {name}"


def _resumable(lost: Lost, folder: RunFolder) -> Lost:
    """With what to type once the place is back."""
    place, said = lost.problem.path, lost.problem.message
    return Lost(place, f"{said}; then stillhouse resume {folder.name}")


def _check_study(experiment: Experiment) -> None:
    """Have its database answer before anything is begun; say what a resume will not know."""
    if experiment.study:
        check_study(experiment.study)
    for field, uri in {"tracking": experiment.tracking, "study": experiment.study}.items():
        if uri and has_secret(uri):
            message = "the password in `%s:` is not kept with the run; for a resume, %s"
            log.warning(message, field, remedy_of(uri))
