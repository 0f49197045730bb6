"""The storage of a study: a journal in the run's folder, or a database.

A database may be restarted under a search: each operation is tried again for :data:`RETRY_FOR_S`
seconds before the search stops, to be resumed.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalStorage
from optuna.trial import TrialState
from sqlalchemy import create_engine, text
from sqlalchemy import inspect as inspect_database
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError

from stillhouse.search.core.addresses import credential_remedy, for_display, scrub
from stillhouse.search.core.errors import StorageUnavailable
from stillhouse.search.core.study_uri import driver_of, is_sqlite, with_driver
from stillhouse.search.tuning.journal import JournalFile
from stillhouse.spaces.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)

RETRY_FOR_S = 90.0
"""Seconds for which a database that does not answer is asked again: a restart takes tens."""
MAX_PAUSE_S = 5.0
JOURNAL_FILE = "study.journal"
_POSTGRES_CONNECT_ARGS = {
    "connect_timeout": 5,  # s
    "keepalives_idle": 30,  # s
    "tcp_user_timeout": 30_000,  # ms; a machine that vanished answers nothing, not even "no"
}

_ResultT = TypeVar("_ResultT")


def open_storage(uri: str | None, folder: Path) -> BaseStorage:
    """Optuna's storage of a study.

    Args:
        uri: the database's address; none means ``study.journal`` in ``folder``.
        folder: the run's, made if it is missing.

    Raises:
        ConfigError: the database cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if uri is None:
        return JournalStorage(JournalFile(folder / JOURNAL_FILE, writable=True))
    check_study_database(uri)
    return _open_database(uri, read_only=False)


def open_for_reading(uri: str | None, folder: Path) -> BaseStorage | None:
    """The storage for readers, which refuses to write. None if there is no study yet.

    Raises:
        ConfigError: the database cannot be used.
    """
    if uri is None:
        return JournalStorage(JournalFile(folder / JOURNAL_FILE, writable=False))
    if is_sqlite(uri) and not Path(make_url(uri).database or "").exists():
        return None  # asking SQLite would make the file
    check_study_database(uri)
    return _open_database(uri, read_only=True) if _has_tables(uri) else None


def _open_database(uri: str, read_only: bool) -> BaseStorage:
    try:
        return RetryingStorage(uri, read_only)
    except (DBAPIError, StorageInternalError, RuntimeError) as error:  # as of another Optuna
        raise _unusable_error(uri, error) from None


def _has_tables(uri: str) -> bool:
    """Whether a search has begun there: Optuna would else make its tables."""
    engine = create_engine(with_driver(uri), connect_args=_connect_args(uri))
    try:
        return inspect_database(engine).has_table("alembic_version")
    finally:
        engine.dispose()


def close_storage(storage: BaseStorage) -> None:
    """Close its connections."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def check_study_database(uri: str) -> None:
    """Query the database once, before the search begins.

    Raises:
        ConfigError: its driver is missing, or it does not answer.
    """
    driver = driver_of(uri)
    if driver and importlib.util.find_spec(driver) is None:
        message = f"{for_display(uri)} needs {driver}: pip install 'stillhouse[cluster]'"
        raise ConfigError([Problem("study", message)])
    try:
        engine = create_engine(with_driver(uri), connect_args=_connect_args(uri))
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        finally:
            engine.dispose()
    except (DBAPIError, ArgumentError, ValueError) as error:
        raise _unusable_error(uri, error) from None


class RetryingStorage(RDBStorage):
    """Optuna's storage; every operation waits for a database that is being restarted."""

    def __init__(self, uri: str, read_only: bool = False) -> None:
        self._study_uri = uri
        self._thread_state = threading.local()
        # Its template marks are not for us: a password may hold braces.
        super().__init__(
            with_driver(uri).replace("{", "{{").replace("}", "}}"),
            engine_kwargs=_engine_settings(uri, read_only),
            skip_table_creation=read_only,
        )

    def set_trial_state_values(self, *args: Any, **kwargs: Any) -> bool:
        """As Optuna's; that it was done before its answer got lost is no error."""
        bound = inspect.signature(RDBStorage.set_trial_state_values).bind(self, *args, **kwargs)
        state: TrialState = bound.arguments["state"]
        try:
            return self.with_retries(
                functools.partial(super().set_trial_state_values, *args, **kwargs)
            )
        except UpdateFinishedTrialError:
            if self.get_trial(bound.arguments["trial_id"]).state != state:
                raise
            return True

    def with_retries(self, operation: Callable[[], _ResultT]) -> _ResultT:
        """Run an operation, and retry it if the connection fails.

        Raises:
            StorageUnavailable: it went on failing for :data:`RETRY_FOR_S` seconds.
        """
        if getattr(self._thread_state, "busy", False):  # part of an operation, retried as a whole
            return operation()
        self._thread_state.busy = True
        try:
            return self._retry(operation)
        finally:
            self._thread_state.busy = False

    def _retry(self, operation: Callable[[], _ResultT]) -> _ResultT:
        deadline, pause = time.monotonic() + RETRY_FOR_S, 0.2
        while True:
            try:
                return operation()
            except (StorageInternalError, DBAPIError) as error:
                if not _is_connection_error(error):
                    raise
                if time.monotonic() + pause > deadline:
                    description = _describe_error(self._study_uri, error)
                    remedy = _remedy(self._study_uri, description)
                    message = f"{description}, for {RETRY_FOR_S:g} s; {remedy}"
                    raise StorageUnavailable("study", message) from None
                if pause == 0.2:
                    log.warning(
                        "the study has to wait: %s", _describe_error(self._study_uri, error)
                    )
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)


def _retrying(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: RetryingStorage, *args: Any, **kwargs: Any) -> Any:
        return self.with_retries(functools.partial(method, self, *args, **kwargs))

    return call


for _name, _method in list(vars(RDBStorage).items()):
    if inspect.isfunction(_method) and _name[:2] != "__" and _name not in vars(RetryingStorage):
        setattr(RetryingStorage, _name, _retrying(_method))


def _is_connection_error(error: Exception) -> bool:
    """Whether the connection failed, and not what was asked."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    is_invalidated = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return is_invalidated or isinstance(cause, OperationalError | InterfaceError)


class _ReadOnlyConnection(sqlite3.Connection):
    """A connection to a SQLite file by which nothing can be changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA query_only = ON")


def _engine_settings(uri: str, read_only: bool) -> dict[str, Any]:
    """With ``read_only`` the database itself refuses to write."""
    settings: dict[str, Any] = {"pool_pre_ping": True, "connect_args": _connect_args(uri)}
    if read_only and is_sqlite(uri):
        settings["connect_args"]["factory"] = _ReadOnlyConnection
    elif read_only:
        settings["execution_options"] = {"postgresql_readonly": True}
    return settings


def _connect_args(uri: str) -> dict[str, Any]:
    return {"timeout": 30} if is_sqlite(uri) else dict(_POSTGRES_CONNECT_ARGS)


def _unusable_error(uri: str, error: Exception) -> ConfigError:
    description = _describe_error(uri, error)
    return ConfigError([Problem("study", f"{description}; {_remedy(uri, description)}")])


def _describe_error(uri: str, error: Exception) -> str:
    """``PLACE cannot be used: REASON`` in one line, without secrets."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    original = getattr(cause, "orig", None) or cause
    line = next(
        (line for line in str(original).splitlines() if line.strip()), type(original).__name__
    )
    return f"{for_display(uri)} cannot be used: {scrub(line.strip(), uri).rstrip('.')}"


def _remedy(uri: str, description: str) -> str:
    if is_sqlite(uri):
        return "name a file in a folder that can be written"
    if "password" in description or "authentication" in description:
        return f"the user or the password is wrong: {credential_remedy(uri)}"
    if "does not exist" in description:
        name = make_url(with_driver(uri)).database or "NAME"
        return f"`createdb {name}` makes a database"
    if "optuna" in description.lower() or "schema" in description.lower():
        return "it was made by another Optuna; name another database"
    return "does PostgreSQL run there, and does it listen on that address?"
