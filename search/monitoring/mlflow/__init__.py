"""Every search in MLflow: nothing delayed, nothing lost. Only this folder knows MLflow."""

from stillhouse.search.monitoring.mlflow.client import (
    NoSuchRun,
    check_viewable,
    fetch_artifact,
    prepare,
    reachable,
    runs_url,
)
from stillhouse.search.monitoring.mlflow.locations import (
    is_loopback,
    is_server,
    resolve_uri,
    server_settings,
    sqlite_file,
    ui_command,
)
from stillhouse.search.monitoring.mlflow.refusals import count_refused
from stillhouse.search.monitoring.mlflow.server import serve, why_taken
from stillhouse.search.monitoring.mlflow.sqlite import known
from stillhouse.search.monitoring.mlflow.tracker import Tracker, send_pending, tracked_at

__all__ = [
    "NoSuchRun",
    "Tracker",
    "check_viewable",
    "count_refused",
    "fetch_artifact",
    "is_loopback",
    "is_server",
    "known",
    "prepare",
    "reachable",
    "resolve_uri",
    "runs_url",
    "send_pending",
    "serve",
    "server_settings",
    "sqlite_file",
    "tracked_at",
    "ui_command",
    "why_taken",
]
