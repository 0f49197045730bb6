"""Finds a file of an earlier run, by the run's name or by its id in MLflow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stillhouse.search.core.addresses import for_display
from stillhouse.search.experiment.yaml_source import read_document
from stillhouse.search.monitoring.mlflow import NoSuchRun, fetch_artifact, recorded_uri, resolve_uri
from stillhouse.search.results.run_folder import RunFolder, runs_root
from stillhouse.spaces.config.problems import ConfigError, Problem


@dataclass(frozen=True)
class FoundFile:
    """A file of a run. ``tracking`` is the MLflow store that it came from.

    It is None for a folder of this machine and for the default database.
    """

    path: Path
    tracking: str | None = None


def find_run_file(name: str, file: str, tracking: str | None = None) -> FoundFile:
    """A file of a run, by the run's name or by its id in MLflow.

    Args:
        name: a run, an experiment (its newest run), or an id.
        tracking: the only store to search for an id. Without it, in turn:
            ``MLFLOW_TRACKING_URI``, ``mlflow.db`` in the working folder, and the stores of the
            runs on this machine.

    Raises:
        ConfigError: there is no such run, or it has no such file; the message lists the
            stores that were searched.
    """
    try:
        folder = RunFolder.find(name)
    except ConfigError as missing:
        return _find_in_mlflow(name, file, tracking, missing)
    source_file = "outcome.json" if file == "best.yaml" else file  # the source of best.yaml
    if not ((folder.path / file).exists() or (folder.path / source_file).exists()):
        message = f"has no best configuration yet; stillhouse resume {folder.name}"
        raise ConfigError([Problem(folder.name, message)])
    return FoundFile(folder.path / file)


def _find_in_mlflow(
    run_id: str, file: str, tracking: str | None, missing: ConfigError
) -> FoundFile:
    searched = []
    default = resolve_uri(None, Path.cwd())
    for uri in _tracking_stores(tracking):
        try:
            path = fetch_artifact(uri, run_id, file)
        except NoSuchRun as error:
            searched.append(f"{for_display(uri)} ({error})")
        else:
            return FoundFile(path, uri if uri != default else None)
    remedy = "name another store with --tracking URI"
    addition = f"; nor is it the id of a run in {', '.join(searched)}; {remedy}"
    raise ConfigError([Problem(p.path, f"{p.message}{addition}") for p in missing.problems])


def _tracking_stores(tracking: str | None) -> list[str]:
    """The stores to search, each once, in order."""
    if tracking:
        return [resolve_uri(tracking, Path.cwd())]
    candidates = [os.environ.get("MLFLOW_TRACKING_URI"), None, *_tracked_uris()]
    uris = []
    for uri in candidates:
        with contextlib.suppress(ConfigError):  # MLflow's own variable may name a folder
            uris.append(resolve_uri(uri, Path.cwd()))
    return list(dict.fromkeys(uris))


def _tracked_uris() -> Iterator[str]:
    """The stores of the runs on this machine, the newest run first."""
    root = runs_root()
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            if recorded := recorded_uri(folder):  # always with an absolute path
                yield recorded
            elif uri := read_document(folder / "experiment.yaml").data.get("tracking"):
                yield str(uri)
