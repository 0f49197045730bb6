"""A run from its folder: its experiment, its state, and its library."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.search.artifacts.existing import find_library
from stillhouse.search.artifacts.places import absolute_address
from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import for_display
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.former_presets import without_removed_presets
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.yaml_source import read_document
from stillhouse.search.monitoring.mlflow import recorded_uri, sqlite_file
from stillhouse.search.monitoring.publisher import STATUS_FILE, heartbeat_overdue
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.locations import document_with_absolute_paths, is_relative_location
from stillhouse.spaces.config.problems import ConfigError, Problem


def load_run(folder: RunFolder, only_read: bool = False) -> Experiment:
    """The experiment of a run, with the paths of its launch.

    Earlier versions wrote relative paths. They are resolved from the folder of the launch, if other
    files of the run name it, or else from the working folder.

    Args:
        only_read: the experiment will not run; see
            ``stillhouse.search.experiment.checks.check_experiment``.

    Raises:
        ConfigError: the file is missing, or its experiment is no longer valid.
    """
    file = folder.path / "experiment.yaml"
    document = read_document(file).data
    upgraded = upgrade_document(folder, document) if isinstance(document, Mapping) else document
    return load_experiment(file if upgraded == document else upgraded, read_only=only_read)


def upgrade_document(folder: RunFolder, document: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a run's ``experiment.yaml`` or ``best.yaml``, in the format of this version.

    Paths are absolute, and presets of earlier versions are spelled out.
    """
    return document_with_absolute_paths(
        without_removed_presets(document), _launch_folder(folder, document)
    )


def open_existing_library(uri: str, name: str, remedy: str) -> Library:
    """The library of the run ``name``; opening it creates nothing.

    Raises:
        ConfigError: there is no library, for example if it is not mounted.
    """
    library = find_library(uri)
    if library is None:
        raise no_artifacts_error(absolute_address(uri), name, remedy)
    return library


def run_library(folder: RunFolder, experiment: Experiment) -> Library:
    """The library of a run folder.

    Raises:
        ConfigError: as :func:`open_existing_library`.
    """
    return open_existing_library(experiment.library, folder.name, library_remedy(folder))


def library_remedy(folder: RunFolder) -> str:
    """The remedy for a missing library of a run."""
    file = folder.path / "best.yaml"
    best = f"; its best configuration is in {file}" if file.exists() else ""
    return f"mount it, or write its new path as `library:` in {folder.path}/experiment.yaml{best}"


def no_artifacts_error(uri: str, name: str, remedy: str) -> ConfigError:
    """The error for a library that has no artifact of the run ``name``."""
    message = f"library {for_display(uri)} has none of its artifacts; {remedy}"
    return ConfigError([Problem(name, message)])


def has_artifacts(folder: RunFolder) -> bool:
    """Whether a launch of the run has stored an artifact."""
    status = folder.read_json(STATUS_FILE)
    stages, ended = status.get("stages", {}), status.get("trials", {}).get("ended", {})
    num_artifacts = stages.get("made", 0) + stages.get("reused", 0) + ended.get("finished", 0)
    return bool(num_artifacts) or (folder.path / "outcome.json").exists()


@dataclass(frozen=True)
class RunState:
    """The state of a run: running, finished, interrupted, failed or killed.

    ``reason`` explains a failure.
    """

    state: str
    reason: str = ""

    def describe(self, name: str, num_finished: int) -> str:
        """One line on a run that has not finished, with the command that resumes it."""
        trials = f"{num_finished} trial{'s' * (num_finished != 1)} finished"
        if self.state == "running":
            return f"{name} is running: {trials} so far"
        verb = {"failed": "failed", "killed": "was killed"}.get(self.state, "was interrupted")
        reason = f": {self.reason}" if self.reason else ""
        return f"{name} {verb} with {trials}{reason}; go on with: stillhouse resume {name}"


def run_state(folder: RunFolder) -> RunState:
    """The state of a run, from its folder."""
    state_file, status = folder.read_json("state.json"), folder.read_json(STATUS_FILE)
    state = str(state_file.get("state", "interrupted"))
    if state == "running" and (not status or heartbeat_overdue(status, time.time()) is not None):
        state = "killed"
    return RunState(state, str(state_file.get("reason", "")))


def _launch_folder(folder: RunFolder, document: Mapping[str, Any]) -> Path:
    """The working folder of the launch if it still exists, else the current one."""
    library, tracking = document.get("library", "stillhouse-library"), document.get("tracking")
    launch_folder = None
    if isinstance(library, str) and is_relative_location(library):
        launch_folder = _ancestor_for(
            folder.read_json(STATUS_FILE).get("library", {}).get("place", ""), library
        )
    if not launch_folder and isinstance(tracking, str | None) and is_relative_location(tracking):
        file = sqlite_file(recorded_uri(folder.path) or "")
        launch_folder = _ancestor_for(
            str(file or ""), (tracking or "mlflow.db").partition(":///")[2]
        )
    return launch_folder if launch_folder and launch_folder.is_dir() else Path.cwd()


def _ancestor_for(path: str, relative: str) -> Path | None:
    """The folder from which ``relative`` leads to ``path``."""
    tail = Path(relative or "mlflow.db").parts
    path_parts = Path(path).parts
    if not path or ".." in tail or path_parts[-len(tail) :] != tail:
        return None
    return Path(*path_parts[: -len(tail)])
