"""MLflow tracking without delay or loss. Only this package imports MLflow."""

from stillhouse.search.monitoring.mlflow.client import (
    NoSuchRun,
    check_reachable,
    check_viewable,
    fetch_artifact,
    prepare_store,
    runs_url,
)
from stillhouse.search.monitoring.mlflow.locations import (
    is_loopback,
    is_server,
    resolve_uri,
    server_environment,
    sqlite_file,
    ui_command,
)
from stillhouse.search.monitoring.mlflow.refusals import count_refusals
from stillhouse.search.monitoring.mlflow.server import port_problem, serve_ui
from stillhouse.search.monitoring.mlflow.sqlite import is_prepared
from stillhouse.search.monitoring.mlflow.tracker import Tracker, recorded_uri, send_pending

__all__ = [
    "NoSuchRun",
    "Tracker",
    "check_reachable",
    "check_viewable",
    "count_refusals",
    "fetch_artifact",
    "is_loopback",
    "is_prepared",
    "is_server",
    "port_problem",
    "prepare_store",
    "recorded_uri",
    "resolve_uri",
    "runs_url",
    "send_pending",
    "serve_ui",
    "server_environment",
    "sqlite_file",
    "ui_command",
]
