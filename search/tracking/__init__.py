"""Every search in MLflow: nothing delayed, nothing lost. Only this folder knows MLflow."""

from search.tracking.client import (
    NoSuchRun,
    check_viewable,
    fetch_artifact,
    prepare,
    reachable,
    runs_url,
)
from search.tracking.place import (
    is_loopback,
    is_server,
    resolve_uri,
    server_settings,
    sqlite_file,
    ui_command,
)
from search.tracking.refusals import count_refused
from search.tracking.server import serve, why_taken
from search.tracking.sqlite import known
from search.tracking.tracker import Tracker, send_pending, tracked_at

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
