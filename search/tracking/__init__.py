"""Every search in MLflow: nothing delayed, nothing lost. Only this folder knows MLflow."""

from search.tracking.client import fetch_artifact, known, prepare, reachable, runs_url
from search.tracking.place import (
    is_loopback,
    is_server,
    resolve_uri,
    server_settings,
    ui_command,
)
from search.tracking.tracker import Tracker, send_pending

__all__ = [
    "Tracker",
    "fetch_artifact",
    "is_loopback",
    "is_server",
    "known",
    "prepare",
    "reachable",
    "resolve_uri",
    "runs_url",
    "send_pending",
    "server_settings",
    "ui_command",
]
