"""Every search in MLflow: nothing delayed, nothing lost. Only this folder knows MLflow."""

from search.tracking.client import fetch_artifact, known, prepare, reachable, runs_url
from search.tracking.place import (
    SERVER_SETTINGS,
    is_loopback,
    is_server,
    resolve_uri,
    ui_command,
    without_password,
)
from search.tracking.tracker import Tracker, send_pending

__all__ = [
    "SERVER_SETTINGS",
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
    "ui_command",
    "without_password",
]
