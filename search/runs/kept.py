"""A run as its folder keeps it: what was asked, how it stands, and the library it rests on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.search.artifacts.existing import find_library
from stillhouse.search.artifacts.places import absolute
from stillhouse.search.artifacts.store import Library
from stillhouse.search.core.addresses import shown
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.former_presets import without_former
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.yaml_source import read_document
from stillhouse.search.monitoring.mlflow import sqlite_file, tracked_at
from stillhouse.search.monitoring.publisher import FILE, silent_for
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.locations import fixed_file, is_relative
from stillhouse.spaces.config.problems import ConfigError, Problem


def load_run(folder: RunFolder, only_read: bool = False) -> Experiment:
    """The experiment of a run. Its places mean what they meant when it was launched.

    Earlier versions kept relative places. Those are resolved from the folder of the launch, which
    other files of the run tell, or else from the working folder.

    Args:
        only_read: nothing of it will run, see :func:`stillhouse.search.experiment.checks.check`.

    Raises:
        ConfigError: the file is missing, or its experiment is not valid any more.
    """
    file = folder.path / "experiment.yaml"
    told = read_document(file).data
    found = as_launched(folder, told) if isinstance(told, Mapping) else told
    return load_experiment(file if found == told else found, only_read=only_read)


def as_launched(folder: RunFolder, told: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a run's ``experiment.yaml`` or ``best.yaml``, as this version writes it.

    Its places are absolute, and it names no preset that only earlier versions had.
    """
    return fixed_file(without_former(told), _base(folder, told))


def open_library(uri: str, name: str, remedy: str) -> Library:
    """The library on which the run ``name`` rests. Nothing is made there by opening it.

    Raises:
        ConfigError: no library lies there, as in a folder that is not mounted.
    """
    library = find_library(uri)
    if library is None:
        raise without_artifacts(absolute(uri), name, remedy)
    return library


def library_of(folder: RunFolder, experiment: Experiment) -> Library:
    """The same for a run's folder, with what helps.

    Raises:
        ConfigError: as :func:`open_library`.
    """
    return open_library(experiment.library, folder.name, remedy_in(folder))


def remedy_in(folder: RunFolder) -> str:
    """What helps where a run's library is away."""
    file = folder.path / "best.yaml"
    best = f"; its best configuration stands in {file}" if file.exists() else ""
    return f"mount it, or name its place now as `library:` in {folder.path}/experiment.yaml{best}"


def without_artifacts(uri: str, name: str, remedy: str) -> ConfigError:
    """The library has nothing of what the run ``name`` made."""
    message = f"library {shown(uri)} has none of its artifacts; {remedy}"
    return ConfigError([Problem(name, message)])


def has_made(folder: RunFolder) -> bool:
    """Whether a launch of the run has left something in its library."""
    status = folder.read_json(FILE)
    stages, ended = status.get("stages", {}), status.get("trials", {}).get("ended", {})
    made = stages.get("made", 0) + stages.get("reused", 0) + ended.get("finished", 0)
    return bool(made) or (folder.path / "outcome.json").exists()


@dataclass(frozen=True)
class Stand:
    """How a run stands. ``state`` is running, finished, interrupted, failed or killed.

    ``reason`` says why it failed.
    """

    state: str
    reason: str = ""

    def sentence(self, name: str, finished: int) -> str:
        """What became of a run that has not finished, and what goes on with it."""
        trials = f"{finished} trial{'s' * (finished != 1)} finished"
        if self.state == "running":
            return f"{name} is running: {trials} so far"
        was = {"failed": "failed", "killed": "was killed"}.get(self.state, "was interrupted")
        why = f": {self.reason}" if self.reason else ""
        return f"{name} {was} with {trials}{why}; go on with: stillhouse resume {name}"


def stand_of(folder: RunFolder) -> Stand:
    """How a run stands, as its folder tells."""
    told, status = folder.read_json("state.json"), folder.read_json(FILE)
    state = str(told.get("state", "interrupted"))
    if state == "running" and (not status or silent_for(status, time.time()) is not None):
        state = "killed"
    return Stand(state, str(told.get("reason", "")))


def _base(folder: RunFolder, told: Mapping[str, Any]) -> Path:
    """The working folder of the launch, if it is still there; else the present one."""
    library, tracking = told.get("library", "stillhouse-library"), told.get("tracking")
    found = None
    if isinstance(library, str) and is_relative(library):
        found = _above(folder.read_json(FILE).get("library", {}).get("place", ""), library)
    if not found and isinstance(tracking, str | None) and is_relative(tracking):
        file = sqlite_file(tracked_at(folder.path) or "")
        found = _above(str(file or ""), (tracking or "mlflow.db").partition(":///")[2])
    return found if found and found.is_dir() else Path.cwd()


def _above(place: str, relative: str) -> Path | None:
    """The folder from which ``relative`` leads to ``place``."""
    tail = Path(relative or "mlflow.db").parts
    whole = Path(place).parts
    if not place or ".." in tail or whole[-len(tail) :] != tail:
        return None
    return Path(*whole[: -len(tail)])
