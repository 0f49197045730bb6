"""MLflow's client, imported late and set to fail fast, and the store of a search."""

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

from stillhouse.search.core.addresses import for_display
from stillhouse.search.monitoring.mlflow.errors import (
    StoreUnusable,
    explain_error,
    store_errors,
    store_unusable_error,
)
from stillhouse.search.monitoring.mlflow.locations import artifact_folder, is_server, sqlite_file
from stillhouse.search.monitoring.mlflow.sqlite import check_schema, check_writable
from stillhouse.spaces.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# MLflow reads these at every request. Variables that the user has set stay. The client must not
# retry: it would repeat a slow "create run", and the outbox retries everything anyway.
_CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_environment_lock = threading.Lock()
_depth = 0
_added_variables: list[str] = []


class NoSuchRun(LookupError):
    """A tracking store has no run with an id, or does not respond; the message says which."""


@contextlib.contextmanager
def client_settings() -> Iterator[None]:
    """Set environment variables that make MLflow's client fail fast and silently in the block."""
    global _depth
    with _environment_lock:
        if _depth == 0:
            _added_variables[:] = [name for name in _CLIENT_ENVIRONMENT if name not in os.environ]
            os.environ.update({name: _CLIENT_ENVIRONMENT[name] for name in _added_variables})
        _depth += 1
    try:
        yield
    finally:
        with _environment_lock:
            _depth -= 1
            if _depth == 0:
                for name in _added_variables:
                    os.environ.pop(name, None)


def open_experiment(uri: str, name: str) -> tuple[MlflowClient, str]:
    """A client, and the id of the MLflow experiment ``name``, which is created if missing.

    Raises:
        ConfigError: the experiment was deleted in MLflow, so it accepts no runs.
        Exception: one of ``store_errors``: MLflow cannot be reached, or refuses.
    """
    from mlflow.exceptions import MlflowException

    with _database_lock(uri):
        client = _connect(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            artifacts = artifact_folder(uri)
            try:
                experiment_id = client.create_experiment(
                    name,
                    artifacts.absolute().as_uri() if artifacts else None,
                    # without it MLflow's page asks for the kind of experiment
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
                return client, experiment_id
            except MlflowException as error:
                # another driver has created it
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise error
    if experiment.lifecycle_stage == "active":
        return client, str(experiment.experiment_id)
    if not experiment.experiment_id:
        raise StoreUnusable("no MLflow answers there; check the address in `tracking:`")
    command = f"mlflow experiments restore -x {experiment.experiment_id}"
    remedy = f"run `MLFLOW_TRACKING_URI={for_display(uri)} {command}` or rename the search"
    raise ConfigError([Problem("name", f"MLflow's experiment {name!r} is deleted; {remedy}")])


def prepare_store(uri: str, experiment_name: str) -> str:
    """Create the database and the experiment, on the driver, before any trial.

    Returns:
        Why MLflow is not ready, "" if it is. A server may come back later; the tracker's outbox
        keeps all operations until then.

    Raises:
        ConfigError: the SQLite database cannot be used, a database's driver is not installed,
            or the experiment was deleted in MLflow.
    """
    with client_settings():
        try:
            open_experiment(uri, experiment_name)
            if file := sqlite_file(uri):
                check_writable(file)
        except store_errors() as error:
            if sqlite_file(uri) or isinstance(error, ImportError):
                raise store_unusable_error(uri, error) from None
            return explain_error(error, uri)
    return ""


def runs_url(uri: str, name: str, port: int = 5000) -> str:
    """The page of the search's runs, on the server at ``uri`` or on this machine's ``port``.

    It is the list of all experiments if MLflow does not respond or has no such search.
    """
    base = for_display(uri).rstrip("/") if is_server(uri) else f"http://127.0.0.1:{port}"
    file = sqlite_file(uri)
    if file and not file.exists():
        return f"{base}/#/experiments"
    with client_settings():
        try:
            experiment = _connect(uri).get_experiment_by_name(name)
        except store_errors():
            experiment = None
    return f"{base}/#/experiments" + (f"/{experiment.experiment_id}/runs" if experiment else "")


def check_viewable(uri: str) -> None:
    """Check that the runs of a store can be viewed.

    Raises:
        ConfigError: it does not respond, or is not a database of the installed MLflow.
    """
    file = sqlite_file(uri)
    if file is None:
        check_reachable(uri)
        return
    try:
        check_schema(file, uri)  # fast: loading MLflow takes seconds
    except (sqlite3.Error, OSError, StoreUnusable) as error:
        raise store_unusable_error(uri, error) from None


def check_reachable(uri: str) -> None:
    """Check the tracking store without writing to it.

    Raises:
        ConfigError: it does not respond, or cannot be written.
    """
    file = sqlite_file(uri)
    with client_settings():
        try:
            if file:
                check_writable(file)
            if file is None or file.exists():
                _connect(uri).search_experiments(max_results=1)
        except store_errors() as error:
            raise store_unusable_error(uri, error) from None


def fetch_artifact(uri: str, run_id: str, path: str) -> Path:
    """Download one of a run's artifacts into a new folder.

    Raises:
        NoSuchRun: the store has no such run, or does not respond; the message says which.
        ConfigError: the run has no such artifact.
    """
    file = sqlite_file(uri)
    if file and not file.exists():
        raise NoSuchRun("there is no database")
    with client_settings():
        run = _get_run(uri, run_id)
        folder = tempfile.mkdtemp(prefix="stillhouse-")
        try:
            return Path(_connect(uri).download_artifacts(run_id, path, folder))
        except store_errors():
            shutil.rmtree(folder)
    name, parent = run.info.run_name, run.data.tags.get("mlflow.parentRunId")
    message = f"is {name!r} in {for_display(uri)} and has no {path}"
    if parent:
        message += f"; the search that it belongs to is the run {parent}"
    raise ConfigError([Problem(run_id, message)])


def _get_run(uri: str, run_id: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        return _connect(uri).get_run(run_id)
    except store_errors() as error:
        # MLflow refuses a malformed id as an invalid value.
        code = error.error_code if isinstance(error, MlflowException) else ""
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise NoSuchRun("no such run") from None
        raise NoSuchRun(explain_error(error, uri)) from None


def _connect(uri: str) -> MlflowClient:
    """A client, after one test connection; MLflow alone retries for two minutes."""
    file, parts = sqlite_file(uri), urlsplit(uri)
    port = _DATABASE_PORTS.get(parts.scheme.partition("+")[0])
    if file and file.exists():
        check_schema(file, uri)
    elif port and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or port), timeout=5).close()
    from mlflow import MlflowClient

    # It logs a traceback for each failed try; the tracker logs one line instead.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient(uri)


@contextlib.contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Serialise the creation of a SQLite database; parallel migrations break each other."""
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=120):
        yield
