"""The operations in the outbox as plain data, within MLflow's limits on names and lengths.

Operations name runs ``search``, ``trial-12`` or ``stage-<start of key>``, since MLflow's ids are
known only after the server has responded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from stillhouse.search.monitoring.mlflow.outbox import OutboxEntry
from stillhouse.spaces.config.base import canonical_json, fingerprint

SEARCH_RUN = "search"
"""The parent of all other runs."""

_MAX_KEY_LETTERS = 250
_MAX_PARAMETER_LETTERS = 500
_MAX_TAG_LETTERS = 8000


def trial_run(number: int) -> str:
    """A trial's run."""
    return f"trial-{number}"


def stage_run(key: str) -> str:
    """A shared stage's run."""
    return f"stage-{key[:12]}"


def begin(run: str, at: int, name: str, tags: Mapping[str, Any]) -> OutboxEntry:
    """Create or continue the run; ``at`` is in milliseconds since 1970, here and below."""
    return {"do": "begin", "run": run, "at": at, "title": name, "tags": _tags(tags)}


def log(
    run: str,
    at: int,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    tags: Mapping[str, Any] | None = None,
) -> list[OutboxEntry]:
    """Log parameters, the metrics of one step, and tags; long texts become files."""
    short_params, tags = {}, dict(tags or {})
    for path, value in (params or {}).items():
        name, value_text = valid_key(path), plain_text(value)
        short_params[name] = value_text[:_MAX_PARAMETER_LETTERS]
        if len(value_text) > _MAX_PARAMETER_LETTERS:
            tags[f"stillhouse.value.{name}"] = value_text
    files = [
        text(run, at, f"{valid_key(name)}.txt", plain_text(value))
        for name, value in tags.items()
        if len(plain_text(value)) > _MAX_TAG_LETTERS
    ]
    float_metrics = {valid_key(name): float(value) for name, value in (metrics or {}).items()}
    entry = {"do": "log", "run": run, "at": at, "step": step}
    entry |= {"params": short_params, "metrics": float_metrics, "tags": _tags(tags)}
    return [entry, *files]


def dataset(
    run: str, at: int, identity: Mapping[str, Any], data_facts: Mapping[str, Any]
) -> OutboxEntry:
    """Log the data set as the run's input.

    ``identity`` decides its batches; ``data_facts`` are its shape, sizes and classes.
    """
    source = identity.get("source", "data")
    name = source if isinstance(source, str) else next(iter(source))
    fields = {
        "name": str(name),
        "digest": fingerprint(identity),
        "source": canonical_json(identity),
    }
    return {"do": "dataset", "run": run, "at": at, **fields, "profile": plain_text(data_facts)}


def text(run: str, at: int, path: str, content: str) -> OutboxEntry:
    """Log a text as an artifact of the run."""
    return {"do": "text", "run": run, "at": at, "path": path, "content": content}


def files(run: str, at: int, paths: Iterable[str]) -> OutboxEntry:
    """Log local files as artifacts; paths inside the search's folder are relative to it."""
    return {"do": "files", "run": run, "at": at, "paths": list(paths)}


def model(run: str, at: int, folder: str, name: str, register: str | None) -> OutboxEntry:
    """Log the model saved in ``folder``, and register it under ``register`` if given."""
    entry = {"do": "model", "run": run, "at": at, "folder": folder}
    return entry | {"name": name, "register": register}


def end(run: str, at: int, status: str) -> OutboxEntry:
    """End the run with FINISHED, FAILED or KILLED."""
    return {"do": "end", "run": run, "at": at, "status": status}


def complete_run(run: str, at: int, entries: Iterable[OutboxEntry]) -> OutboxEntry:
    """Apply ``entries`` if an earlier launch began the run and it has not finished."""
    run_entries = [entry for entry in entries if entry["run"] == run]
    return {"do": "complete", "run": run, "at": at, "operations": run_entries}


def end_others(at: int, reason: str) -> OutboxEntry:
    """End all running child runs of the search as interrupted."""
    return {"do": "end_others", "run": SEARCH_RUN, "at": at, "reason": reason}


def valid_key(name: str) -> str:
    """A valid MLflow name; a long one is cut and gets a hash that keeps it distinct."""
    name = re.sub(r"[^\w.\- :/]", "_", name, flags=re.ASCII).strip("/")
    name = re.sub(r"/[./]*/|\.\.+", "_", name) or "_"
    if len(name) <= _MAX_KEY_LETTERS:
        return name
    return f"{name[: _MAX_KEY_LETTERS - 9]}-{fingerprint(name)[:8]}"


def plain_text(value: Any) -> str:
    """A string unchanged, else JSON; characters that databases refuse are replaced."""
    if not isinstance(value, str):
        return json.dumps(value, sort_keys=True, default=str)
    return value.replace("\0", "?").encode(errors="replace").decode()


def _tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {valid_key(name): plain_text(value)[:_MAX_TAG_LETTERS] for name, value in tags.items()}
