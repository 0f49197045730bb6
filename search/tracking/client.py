"""MLflow's client: imported late, quiet, quick to give up; and the experiment of a search."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from search.address import hushed, remedy_of, shown
from search.tracking.place import artifact_folder, is_server, sqlite_file
from spaces.problem import ConfigError, Problem

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow reads these wherever it sends something. What the user has set stays. No retries inside
# the client: it would repeat a slow "create run", and the spool repeats everything anyway.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_guard = threading.Lock()
_inside = 0
_added: list[str] = []


@contextlib.contextmanager
def client_settings() -> Iterator[None]:
    """MLflow's client fails fast and prints nothing inside; the environment is restored after."""
    global _inside
    with _guard:
        if _inside == 0:
            _added[:] = [name for name in _SETTINGS if name not in os.environ]
            os.environ.update({name: _SETTINGS[name] for name in _added})
        _inside += 1
    try:
        yield
    finally:
        with _guard:
            _inside -= 1
            if _inside == 0:
                for name in _added:
                    os.environ.pop(name, None)


def open_experiment(uri: str, name: str) -> tuple[MlflowClient, str]:
    """A client, and the id of the MLflow experiment called ``name``, made where it is missing.

    Raises:
        ConfigError: the experiment was deleted in MLflow, so that it takes no runs.
        MlflowException, OSError: MLflow cannot be reached, or does not want to.
    """
    from mlflow.exceptions import MlflowException

    with _alone(uri):
        client = _connect(uri)
        found = client.get_experiment_by_name(name)
        if found is None:
            artifacts = artifact_folder(uri)
            try:
                made = client.create_experiment(
                    name,
                    artifacts.absolute().as_uri() if artifacts else None,
                    # without it MLflow's page asks what kind of experiment this is
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
                return client, made
            except MlflowException as error:
                # another driver was faster
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise error
    if found.lifecycle_stage != "active":
        remedy = f"run `mlflow experiments restore -x {found.experiment_id}` or rename the search"
        raise ConfigError([Problem("name", f"MLflow's experiment {name!r} is deleted; {remedy}")])
    return client, str(found.experiment_id)


def prepare(uri: str, experiment_name: str) -> str:
    """Create the database and the experiment, on the driver, before any trial.

    Returns why MLflow is not ready, "" if it is: a server may come back later, and the tracker
    keeps everything until then.

    Raises:
        ConfigError: the sqlite database cannot be used, a database's driver is not installed,
            or the experiment was deleted in MLflow.
    """
    with client_settings():
        try:
            open_experiment(uri, experiment_name)
        except troubles() as error:
            if sqlite_file(uri) or isinstance(error, ImportError):
                raise _unusable(uri, error) from None
            return first_line(error)
    return ""


def known(uri: str, experiment_name: str) -> bool:
    """Whether a sqlite database has the experiment and takes runs of it: nothing to prepare.

    Asked without MLflow, which takes seconds to load.
    """
    file = sqlite_file(uri)
    if file is None or not file.exists():
        return False
    asked = "SELECT 1 FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    try:
        with contextlib.closing(sqlite3.connect(file)) as database:
            return database.execute(asked, (experiment_name,)).fetchone() is not None
    except sqlite3.Error:
        return False  # what is wrong with it, MLflow says better


def runs_url(uri: str, name: str, port: int = 5000) -> str:
    """The page of the search's runs, for a server at ``uri`` or one on this machine's ``port``.

    Where MLflow does not answer or knows of no such search: the list of all experiments.
    """
    base = shown(uri).rstrip("/") if is_server(uri) else f"http://127.0.0.1:{port}"
    file = sqlite_file(uri)
    if file and not file.exists():
        return f"{base}/#/experiments"
    with client_settings():
        try:
            found = _connect(uri).get_experiment_by_name(name)
        except troubles():
            found = None
    return f"{base}/#/experiments" + (f"/{found.experiment_id}/runs" if found else "")


def reachable(uri: str) -> None:
    """Try the tracking store without leaving anything there.

    Raises:
        ConfigError: it does not answer, or its folder cannot be written.
    """
    file = sqlite_file(uri)
    if file and not file.exists():
        folder = next(parent for parent in file.parents if parent.exists())
        if not os.access(folder, os.W_OK):
            raise _unusable(uri, PermissionError(f"{folder} cannot be written"))
        return
    with client_settings():
        try:
            _connect(uri).search_experiments(max_results=1)
        except troubles() as error:
            raise _unusable(uri, error) from None


def fetch_artifact(uri: str, run_id: str, path: str) -> Path | None:
    """A copy of one of a run's artifacts; None where there is no such run or artifact."""
    file = sqlite_file(uri)
    if file and not file.exists():
        return None
    with client_settings():
        folder = tempfile.mkdtemp(prefix="stillhouse-")
        try:
            return Path(_connect(uri).download_artifacts(run_id, path, folder))
        except troubles():
            shutil.rmtree(folder)
            return None


def troubles() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store does not work or does not want to."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError


def _unusable(uri: str, error: Exception) -> ConfigError:
    said = f"{shown(uri)} cannot be used: {hushed(first_line(error), uri)}"
    if isinstance(error, ImportError):
        said += "; pip install 'stillhouse[cluster]' and write postgresql+psycopg://"
    elif "authentication" in said or "password" in said or "401" in said:
        said += f"; {remedy_of(uri)}"
    return ConfigError([Problem("tracking", said)])


def first_line(error: Exception) -> str:
    """An error for the status line: "Connection refused" rather than how MLflow wraps it."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    told = root if isinstance(root, OSError) else error
    text = str(told).strip() or type(told).__name__
    return hushed(text.splitlines()[0])[:300]


def _connect(uri: str) -> MlflowClient:
    """A client; where MLflow would try for two minutes to open a database, one try before."""
    file, parts = sqlite_file(uri), urlsplit(uri)
    port = _PORTS.get(parts.scheme.partition("+")[0])
    if file and file.exists():
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA schema_version")
    elif port and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or port), timeout=5).close()
    from mlflow import MlflowClient

    # A traceback for each try while a database is away, where the tracker says one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(uri)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Processes that create one sqlite database at once break each other's migrations."""
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=120):
        yield
