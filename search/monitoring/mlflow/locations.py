"""MLflow's tracking URI, its artifact folder, and the command of its server.

Only the driver of a search calls MLflow, from one thread; workers report to the driver. A SQLite
file beside the driver is for searches on one machine. A cluster needs a server or a database: the
driver may move, several drivers write at once, and users are on other machines.
"""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path

from stillhouse.search.core.addresses import for_display, scrub
from stillhouse.spaces.config.problems import ConfigError, Problem

SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Environment of MLflow's server: no job workers and no telemetry."""

_SERVER_SCHEMES = ("http", "https", "databricks")
_DATABASE_SCHEMES = ("postgresql", "mysql", "mssql")
_REMEDY = "use sqlite:///FILE.db, http(s)://HOST:PORT, postgresql://..., mysql://... or databricks"


def resolve_uri(uri: str | None, base: Path) -> str:
    """The tracking URI, independent of the working directory.

    None means a database ``mlflow.db`` in ``base``; a relative sqlite file lies under ``base``.

    Raises:
        ConfigError: a folder of files, which MLflow no longer supports; a database in memory,
            which ends with the search; an unknown scheme.
    """
    if not uri:
        return f"sqlite:///{base.absolute() / 'mlflow.db'}"
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in _SERVER_SCHEMES or scheme in _DATABASE_SCHEMES:
        return uri
    if scheme == "sqlite" and ":///" in uri:
        driver, _, file = uri.partition(":///")
        if not file or file.startswith((":memory:", "?")):
            _refuse(uri, "is a database in memory, gone with the search")
        return f"{driver}:///{(base / Path(file).expanduser()).absolute()}"
    if scheme == "file" or ":" not in uri:
        _refuse(uri, "is a folder; MLflow keeps runs in a database or on a server")
    _refuse(uri, "is no place MLflow knows")
    raise AssertionError


def _refuse(uri: str, reason: str) -> None:
    raise ConfigError([Problem("tracking", f"{scrub(uri)!r} {reason}; {_REMEDY}")])


def is_server(uri: str) -> bool:
    """Whether the URI is that of an MLflow server, not of a database."""
    return uri.partition(":")[0] in _SERVER_SCHEMES


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for every other URI."""
    scheme, _, path = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite":
        return None
    return Path(path.partition("?")[0])


def artifact_folder(uri: str) -> Path | None:
    """``mlartifacts`` beside a SQLite file, or in the working folder for other databases.

    None for a server, which has its own artifact store.
    """
    if is_server(uri):
        return None
    file = sqlite_file(uri)
    return (file.parent if file else Path.cwd()) / "mlartifacts"


def server_environment(uri: str) -> dict[str, str]:
    """Environment for ``ui_command``; it holds the URI, since command lines are public and a URI
    may have a password.
    """
    return {**SERVER_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri}


def ui_command(
    uri: str, host: str = "127.0.0.1", port: int = 5000, allowed_hosts: str | None = None
) -> list[str]:
    """The command line of an MLflow server for ``uri``, to run with ``server_environment``.

    Args:
        uri: of a database.
        host: where the server listens.
        port: on which it listens.
        allowed_hosts: accepted values of the ``Host`` header; MLflow's default list if not given.

    Raises:
        ConfigError: ``uri`` is that of a server, or other machines could reach the new server
            and ``allowed_hosts`` is not given.
    """
    artifacts = artifact_folder(uri)
    if artifacts is None:
        message = f"is served already; open {for_display(uri)} in a browser"
        raise ConfigError([Problem("tracking", message)])
    if not (is_loopback(host) or allowed_hosts):
        message = (
            f"{host} serves everybody who reaches this machine, and asks for no password; leave "
            "it out, or say with --allowed-hosts NAME:PORT by which names it may be called "
            "(docs/cluster.md has a server with passwords)"
        )
        raise ConfigError([Problem("--host", message)])
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--artifacts-destination", str(artifacts)),
        *("--host", host, "--port", str(port), "--workers", "1"),
        *(("--allowed-hosts", allowed_hosts) if allowed_hosts else ()),
    ]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
