"""Where MLflow keeps its runs: the URI, the folder for artifacts, the command that shows them.

Only the driver of a search speaks to MLflow, from one thread; workers report to the driver. A
SQLite file beside the driver serves a search on one machine. On several it is refused: the driver
may move to another, several drivers write at a time, and the page is looked at from elsewhere.
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
"""Of MLflow's server: pages alone, no workers for jobs, no calls home."""

_SERVER_SCHEMES = ("http", "https", "databricks")
_DATABASE_SCHEMES = ("postgresql", "mysql", "mssql")
_REMEDY = "use sqlite:///FILE.db, http(s)://HOST:PORT, postgresql://..., mysql://... or databricks"


def resolve_uri(uri: str | None, base: Path) -> str:
    """The tracking URI, independent of the working directory.

    None means a database ``mlflow.db`` in ``base``; a relative sqlite file lies under ``base``.

    Raises:
        ConfigError: a folder of files, which MLflow keeps no runs in any more; a database in
            memory, which nobody could look at afterwards; an unknown scheme.
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
    """Whether an MLflow server answers there, rather than a database."""
    return uri.partition(":")[0] in _SERVER_SCHEMES


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite URI; None for every other place."""
    scheme, _, path = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite":
        return None
    return Path(path.partition("?")[0])


def artifact_folder(uri: str) -> Path | None:
    """Where artifacts go: beside a sqlite file, ``mlartifacts`` here for other databases.

    None for a server, which has a place of its own.
    """
    if is_server(uri):
        return None
    file = sqlite_file(uri)
    return (file.parent if file else Path.cwd()) / "mlartifacts"


def server_environment(uri: str) -> dict[str, str]:
    """Environment for :func:`ui_command`. The address may hold a password, and command lines are
    for everybody to see.
    """
    return {**SERVER_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri}


def ui_command(
    uri: str, host: str = "127.0.0.1", port: int = 5000, allowed_hosts: str | None = None
) -> list[str]:
    """The command line that serves MLflow's pages for the runs kept at ``uri``, which
    :func:`server_environment` tell it.

    Args:
        allowed_hosts: by which names it may be called; MLflow's own list if none is given.

    Raises:
        ConfigError: a server is there already, or it would serve others under any name.
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
    """Whether a server there is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
