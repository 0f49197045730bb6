"""What goes wrong with MLflow's store, in one line with the remedy."""

from __future__ import annotations

import re
import sqlite3

from stillhouse.search.core.addresses import hushed, remedy_of, shown
from stillhouse.search.monitoring.mlflow.locations import is_server
from stillhouse.search.monitoring.mlflow.schema import mismatch
from stillhouse.spaces.config.problems import ConfigError, Problem

_STATUS = re.compile(r"error code (\d{3})|too many (\d{3}) error responses")
_BODY = re.compile(r"Response body: '([^<]*)'", re.DOTALL)
_REVISION = re.compile(r"\(found version (\w+),|revision identified by '(\w+)'")
_DRIVER = re.compile(r"^\((?:\w+\.)+\w+\) ")
_NO_MLFLOW = "no MLflow answers there; check the address in `tracking:`"


class Unusable(RuntimeError):
    """A database that the installed MLflow cannot use; the message has the remedy."""


def troubles() -> tuple[type[Exception], ...]:
    """What MLflow raises when its store does not work or does not want to."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    found = (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError, ImportError)
    return (*found, Unusable)


def unusable(uri: str, error: Exception) -> ConfigError:
    """The error for a user whose tracking store cannot be used."""
    return ConfigError([Problem("tracking", f"{shown(uri)} cannot be used: {explain(error, uri)}")])


def explain(error: Exception, uri: str) -> str:
    """What is wrong with the store at ``uri`` and what helps, in one line without secrets."""
    line = hushed(first_line(error), uri)
    if isinstance(error, ImportError):
        return f"{line}; pip install 'stillhouse[cluster]' and write postgresql+psycopg://"
    if found := _REVISION.search(str(error)):
        return mismatch(found[1] or found[2], uri) or line
    if is_server(uri):
        return _of_server(error, line, uri)
    if "not a database" in line:
        return f"{line}; move the file away, or name another store with `tracking:`"
    if "readonly" in line or "read-only" in line or isinstance(error, PermissionError):
        return f"{line}; allow writing to the file and its folder, or name another store"
    if "authentication" in line or "password" in line:
        return f"{line}; {remedy_of(uri)}"
    return line


def _of_server(error: Exception, line: str, uri: str) -> str:
    """An answer that is none of MLflow's: its status tells more than how MLflow words it."""
    status, said = _status(error), _said(error)
    if status == 401:
        return f"the server asks who you are (401){said}; {remedy_of(uri)}"
    if status == 403:
        remedy = "ask whoever runs it for the permission, or for its --allowed-hosts"
        return f"the server forbids it (403){said}; {remedy}"
    if status in (301, 302, 307, 308, 404, 405):
        return f"{_NO_MLFLOW} ({status})"
    if status >= 500:
        return f"the server has trouble (error {status}); its log says which"
    if status == 429:
        return "the server is asked too much at present (429)"
    if "not in a valid JSON format" in line:
        return f"{_NO_MLFLOW} (its answer is no JSON)"
    return line


def _status(error: Exception) -> int:
    """The HTTP status of an answer; 0 where none came, or where it is MLflow's own refusal."""
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        told = error.json if isinstance(error.json, dict) else {}
        if "error_code" not in told:
            return 404  # JSON, as of another web service, and not MLflow's
        return {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}.get(error.error_code, 0)
    found = _STATUS.search(str(error))
    return int(found[1] or found[2]) if found else 0


def _said(error: Exception) -> str:
    """What the server wrote beside its status, where it is a line of text."""
    from mlflow.exceptions import RestException

    found = _BODY.search(str(error))
    text = str(error) if isinstance(error, RestException) else found[1] if found else ""
    lines = text.strip().splitlines()
    return f": {lines[0][:150]}" if lines else ""


def first_line(error: Exception) -> str:
    """An error for the status line: "Connection refused" rather than how MLflow wraps it."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    told = root if isinstance(root, OSError) else error
    text = str(told).strip() or type(told).__name__
    return hushed(_DRIVER.sub("", text.splitlines()[0]))[:300]
