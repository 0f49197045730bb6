"""Explains errors of MLflow's store in one line with the remedy."""

from __future__ import annotations

import re
import sqlite3

from stillhouse.search.core.addresses import credential_remedy, for_display, scrub
from stillhouse.search.monitoring.mlflow.locations import is_server
from stillhouse.search.monitoring.mlflow.schema import schema_mismatch
from stillhouse.spaces.config.problems import ConfigError, Problem

_STATUS_PATTERN = re.compile(r"error code (\d{3})|too many (\d{3}) error responses")
_BODY_PATTERN = re.compile(r"Response body: '([^<]*)'", re.DOTALL)
_REVISION_PATTERN = re.compile(r"\(found version (\w+),|revision identified by '(\w+)'")
_DRIVER_PREFIX = re.compile(r"^\((?:\w+\.)+\w+\) ")
_NOT_MLFLOW = "no MLflow answers there; check the address in `tracking:`"


class StoreUnusable(RuntimeError):
    """A database that the installed MLflow cannot use; the message has the remedy."""


def store_errors() -> tuple[type[Exception], ...]:
    """The exceptions that MLflow raises when its store fails or refuses."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    errors = (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError, ImportError)
    return (*errors, StoreUnusable)


def store_unusable_error(uri: str, error: Exception) -> ConfigError:
    """The error for a user whose tracking store cannot be used."""
    return ConfigError(
        [Problem("tracking", f"{for_display(uri)} cannot be used: {explain_error(error, uri)}")]
    )


def explain_error(error: Exception, uri: str) -> str:
    """The problem with the store at ``uri`` and its remedy, in one line without secrets."""
    line = scrub(root_cause_line(error), uri)
    if isinstance(error, ImportError):
        return f"{line}; pip install 'stillhouse[cluster]' and write postgresql+psycopg://"
    if match := _REVISION_PATTERN.search(str(error)):
        return schema_mismatch(match[1] or match[2], uri) or line
    if is_server(uri):
        return _explain_server_error(error, line, uri)
    if "not a database" in line:
        return f"{line}; move the file away, or name another store with `tracking:`"
    if "readonly" in line or "read-only" in line or isinstance(error, PermissionError):
        return f"{line}; allow writing to the file and its folder, or name another store"
    if "authentication" in line or "password" in line:
        return f"{line}; {credential_remedy(uri)}"
    return line


def _explain_server_error(error: Exception, line: str, uri: str) -> str:
    """Explain an HTTP error by its status, which is clearer than MLflow's message."""
    status, server_text = _http_status(error), _server_text(error)
    if status == 401:
        return f"the server asks who you are (401){server_text}; {credential_remedy(uri)}"
    if status == 403:
        remedy = "ask whoever runs it for the permission, or for its --allowed-hosts"
        return f"the server forbids it (403){server_text}; {remedy}"
    if status in (301, 302, 307, 308, 404, 405):
        return f"{_NOT_MLFLOW} ({status})"
    if status >= 500:
        return f"the server has trouble (error {status}); its log says which"
    if status == 429:
        return "the server is asked too much at present (429)"
    if "not in a valid JSON format" in line:
        return f"{_NOT_MLFLOW} (its answer is no JSON)"
    return line


def _http_status(error: Exception) -> int:
    """The HTTP status of the response; 0 without one, and for MLflow's own refusals."""
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        answer = error.json if isinstance(error.json, dict) else {}
        if "error_code" not in answer:
            return 404  # JSON of another web service
        return {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}.get(error.error_code, 0)
    match = _STATUS_PATTERN.search(str(error))
    return int(match[1] or match[2]) if match else 0


def _server_text(error: Exception) -> str:
    """The first line of the response's text, behind a colon; "" without text."""
    from mlflow.exceptions import RestException

    match = _BODY_PATTERN.search(str(error))
    text = str(error) if isinstance(error, RestException) else match[1] if match else ""
    lines = text.strip().splitlines()
    return f": {lines[0][:150]}" if lines else ""


def root_cause_line(error: Exception) -> str:
    """The root cause, such as "Connection refused", instead of MLflow's wrapper."""
    root: BaseException = error
    while root.__cause__ or root.__context__:
        root = root.__cause__ or root.__context__ or root
    shown_error = root if isinstance(root, OSError) else error
    text = str(shown_error).strip() or type(shown_error).__name__
    return scrub(_DRIVER_PREFIX.sub("", text.splitlines()[0]))[:300]
