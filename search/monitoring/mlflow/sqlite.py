"""Checks MLflow's SQLite file without MLflow, which takes seconds to load."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from stillhouse.search.monitoring.mlflow.errors import StoreUnusable
from stillhouse.search.monitoring.mlflow.locations import sqlite_file
from stillhouse.search.monitoring.mlflow.schema import schema_mismatch

_EXPERIMENT_QUERY = "SELECT 1 FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
_SCHEMA_TABLE_QUERY = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"


def check_schema(file: Path, uri: str) -> None:
    """Check that the installed MLflow can use an existing database.

    MLflow itself may add tables to a newer database before it reports the mismatch.

    Raises:
        StoreUnusable: another version of MLflow wrote it; the message has the remedy.
        sqlite3.Error: the file is not a database, or cannot be read.
    """
    with contextlib.closing(sqlite3.connect(file)) as database:
        if database.execute(_SCHEMA_TABLE_QUERY).fetchone() is None:
            return
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    if row and (problem := schema_mismatch(str(row[0]), uri)):
        raise StoreUnusable(problem)


def check_writable(file: Path) -> None:
    """Check that a database can be written, without changing it.

    Raises:
        PermissionError, sqlite3.Error: it cannot.
    """
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written")
    if not file.exists():
        return
    with contextlib.closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):  # locked: another process is writing
                raise
        else:
            database.execute("ROLLBACK")


def is_prepared(uri: str, experiment_name: str) -> bool:
    """Whether a SQLite database is writable and has the experiment."""
    file = sqlite_file(uri)
    if file is None or not file.exists():
        return False
    try:
        check_schema(file, uri)
        check_writable(file)
        with contextlib.closing(sqlite3.connect(file)) as database:
            return database.execute(_EXPERIMENT_QUERY, (experiment_name,)).fetchone() is not None
    except (sqlite3.Error, OSError, StoreUnusable):
        return False  # `prepare_store` reports the problem
