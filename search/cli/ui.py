"""``stillhouse ui``: serves MLflow's pages on the tracking store."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from stillhouse.search.cli.show import console
from stillhouse.search.core.addresses import for_display
from stillhouse.search.monitoring.mlflow import (
    check_viewable,
    is_loopback,
    port_problem,
    resolve_uri,
    runs_url,
    send_pending,
    serve_ui,
    server_environment,
    sqlite_file,
    ui_command,
)
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.kept import load_run


def ui(
    name: Annotated[str | None, typer.Argument(help="A run, to use its tracking store.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow's URI.")] = None,
    port: int = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    allowed_hosts: Annotated[
        str | None,
        typer.Option(metavar="HOSTS", help="Allowed host names; required beyond loopback."),
    ] = None,
) -> None:
    """Open MLflow on the tracking store; Ctrl-C ends it."""
    title = None
    if name:
        folder = RunFolder.find(name)
        experiment = load_run(folder, only_read=True)
        tracking, title = experiment.tracking, experiment.name
        send_pending(folder.path)
    uri = resolve_uri(tracking, Path.cwd())
    command = ui_command(uri, host, port, allowed_hosts)
    _check_store(uri)
    if problem := port_problem(host, port):
        _exit_with_error(
            f"--port: MLflow cannot listen on port {port} of {host}: {problem}; try --port N"
        )
    page = runs_url(uri, title, port) if title else f"http://{_url_host(host)}:{port}"
    if not is_loopback(host):
        warning = "there is no password: anybody who reaches this port can read and change all runs"
        console.print(f"warning: {warning}", markup=False)

    def ready() -> None:
        console.print(f"open {page} (Ctrl-C ends it)", markup=False)

    number, status = serve_ui(command, server_environment(uri), host, port, ready)
    if number == 0:
        _exit_with_error(f"--port: MLflow's server on port {port} has ended with status {status}")
    if number != signal.SIGINT:
        raise typer.Exit(128 + number)


def _check_store(uri: str) -> None:
    """Refuse a missing database: MLflow would create an empty one.

    Raises:
        ConfigError: the database cannot be used.
        typer.Exit: there is none.
    """
    file = sqlite_file(uri)
    if file and not file.exists():
        _exit_with_error(
            f"--tracking: there is nothing to show: no database {for_display(str(file))}; "
            "`stillhouse launch FILE` makes one, or name another store with --tracking URI"
        )
    check_viewable(uri)


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _exit_with_error(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(1)
