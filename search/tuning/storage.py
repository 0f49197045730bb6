"""Where a study lies: a journal in the run's folder, or a database that outlives the machine.

A database may be restarted under a search: each operation is tried again for :data:`PATIENCE`
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

from stillhouse.search.core.addresses import hushed, remedy_of, shown
from stillhouse.search.core.errors import Lost
from stillhouse.search.core.study_uri import driver_of, is_sqlite, with_driver
from stillhouse.search.tuning.journal import Journal
from stillhouse.spaces.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)

PATIENCE = 90.0
"""Seconds for which a database that does not answer is asked again: a restart takes tens."""
LONGEST_PAUSE = 5.0
JOURNAL = "study.journal"
_CONNECT = {
    "connect_timeout": 5,  # s
    "keepalives_idle": 30,  # s
    "tcp_user_timeout": 30_000,  # ms; a machine that vanished answers nothing, not even "no"
}

_Found = TypeVar("_Found")


def open_storage(study: str | None, folder: Path) -> BaseStorage:
    """Optuna's storage of a study.

    Args:
        study: the database's address; none means ``study.journal`` in ``folder``.
        folder: the run's, made if it is missing.

    Raises:
        ConfigError: the database cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if study is None:
        return JournalStorage(Journal(folder / JOURNAL, writes=True))
    check_study(study)
    return _database(study, reads_only=False)


def open_for_reading(study: str | None, folder: Path) -> BaseStorage | None:
    """The same storage for those who only look: it refuses to write. None if nothing is there yet.

    Raises:
        ConfigError: the database cannot be used.
    """
    if study is None:
        return JournalStorage(Journal(folder / JOURNAL, writes=False))
    if is_sqlite(study) and not Path(make_url(study).database or "").exists():
        return None  # asking SQLite would make the file
    check_study(study)
    return _database(study, reads_only=True) if _has_tables(study) else None


def _database(study: str, reads_only: bool) -> BaseStorage:
    try:
        return PatientStorage(study, reads_only)
    except (DBAPIError, StorageInternalError, RuntimeError) as error:  # as of another Optuna
        raise _unusable(study, error) from None


def _has_tables(study: str) -> bool:
    """Whether a search has begun there: Optuna would else make its tables."""
    engine = create_engine(with_driver(study), connect_args=_connect_args(study))
    try:
        return inspect_database(engine).has_table("alembic_version")
    finally:
        engine.dispose()


def close_storage(storage: BaseStorage) -> None:
    """Let go of its connections."""
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


def check_study(study: str) -> None:
    """Ask the database once, before anything is begun.

    Raises:
        ConfigError: its driver is missing, or it does not answer.
    """
    driver = driver_of(study)
    if driver and importlib.util.find_spec(driver) is None:
        message = f"{shown(study)} needs {driver}: pip install 'stillhouse[cluster]'"
        raise ConfigError([Problem("study", message)])
    try:
        engine = create_engine(with_driver(study), connect_args=_connect_args(study))
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        finally:
            engine.dispose()
    except (DBAPIError, ArgumentError, ValueError) as error:
        raise _unusable(study, error) from None


class PatientStorage(RDBStorage):
    """Optuna's own, whose every operation waits for a database that is being restarted."""

    def __init__(self, study: str, reads_only: bool = False) -> None:
        self._told = study
        self._inside = threading.local()
        # Its template marks are not for us: a password may hold braces.
        super().__init__(
            with_driver(study).replace("{", "{{").replace("}", "}}"),
            engine_kwargs=_engine_settings(study, reads_only),
            skip_table_creation=reads_only,
        )

    def set_trial_state_values(self, *args: Any, **kwargs: Any) -> bool:
        """As Optuna's; that it was done before its answer got lost is no error."""
        asked = inspect.signature(RDBStorage.set_trial_state_values).bind(self, *args, **kwargs)
        state: TrialState = asked.arguments["state"]
        try:
            return self.patiently(
                functools.partial(super().set_trial_state_values, *args, **kwargs)
            )
        except UpdateFinishedTrialError:
            if self.get_trial(asked.arguments["trial_id"]).state != state:
                raise
            return True

    def patiently(self, work: Callable[[], _Found]) -> _Found:
        """Do something, again where the connection fails.

        Raises:
            Lost: it went on failing for :data:`PATIENCE` seconds.
        """
        if getattr(self._inside, "busy", False):  # a part of an operation, which is tried whole
            return work()
        self._inside.busy = True
        try:
            return self._patiently(work)
        finally:
            self._inside.busy = False

    def _patiently(self, work: Callable[[], _Found]) -> _Found:
        until, pause = time.monotonic() + PATIENCE, 0.2
        while True:
            try:
                return work()
            except (StorageInternalError, DBAPIError) as error:
                if not _may_pass(error):
                    raise
                if time.monotonic() + pause > until:
                    said = _said(self._told, error)
                    message = f"{said}, for {PATIENCE:g} s; {_remedy(self._told, said)}"
                    raise Lost("study", message) from None
                if pause == 0.2:
                    log.warning("the study has to wait: %s", _said(self._told, error))
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def asked(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.patiently(functools.partial(method, self, *args, **kwargs))

    return asked


for _name, _method in list(vars(RDBStorage).items()):
    if inspect.isfunction(_method) and _name[:2] != "__" and _name not in vars(PatientStorage):
        setattr(PatientStorage, _name, _patient(_method))


def _may_pass(error: Exception) -> bool:
    """Whether the connection failed, and not what was asked."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    broken = isinstance(cause, DBAPIError) and cause.connection_invalidated
    return broken or isinstance(cause, OperationalError | InterfaceError)


class _LooksOnly(sqlite3.Connection):
    """A connection to a SQLite file by which nothing can be changed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA query_only = ON")


def _engine_settings(study: str, reads_only: bool) -> dict[str, Any]:
    """With ``reads_only`` the database itself refuses to write."""
    told: dict[str, Any] = {"pool_pre_ping": True, "connect_args": _connect_args(study)}
    if reads_only and is_sqlite(study):
        told["connect_args"]["factory"] = _LooksOnly
    elif reads_only:
        told["execution_options"] = {"postgresql_readonly": True}
    return told


def _connect_args(study: str) -> dict[str, Any]:
    return {"timeout": 30} if is_sqlite(study) else dict(_CONNECT)


def _unusable(study: str, error: Exception) -> ConfigError:
    said = _said(study, error)
    return ConfigError([Problem("study", f"{said}; {_remedy(study, said)}")])


def _said(study: str, error: Exception) -> str:
    """``PLACE cannot be used: REASON`` in one line, without secrets."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    told = getattr(cause, "orig", None) or cause
    line = next((line for line in str(told).splitlines() if line.strip()), type(told).__name__)
    return f"{shown(study)} cannot be used: {hushed(line.strip(), study).rstrip('.')}"


def _remedy(study: str, said: str) -> str:
    if is_sqlite(study):
        return "name a file in a folder that can be written"
    if "password" in said or "authentication" in said:
        return f"the user or the password is wrong: {remedy_of(study)}"
    if "does not exist" in said:
        name = make_url(with_driver(study)).database or "NAME"
        return f"`createdb {name}` makes a database"
    if "optuna" in said.lower() or "schema" in said.lower():
        return "it was made by another Optuna; name another database"
    return "does PostgreSQL run there, and does it listen on that address?"
