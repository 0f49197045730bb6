"""The operations the spool holds, as plain data, within MLflow's limits on names and lengths.

Runs have names of our own here (``search``, ``trial-12``, ``stage-<start of key>``); MLflow's
ids are known only once the server has answered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from stillhouse.search.monitoring.mlflow.outbox import Operation
from stillhouse.spaces.config.base import canonical_json, fingerprint

SEARCH = "search"
"""The parent of all other runs."""

_KEY = 250
_PARAMETER = 500
_TAG = 8000


def trial_run(number: int) -> str:
    """A trial's run."""
    return f"trial-{number}"


def stage_run(key: str) -> str:
    """A shared stage's run."""
    return f"stage-{key[:12]}"


def begin(run: str, at: int, name: str, tags: Mapping[str, Any]) -> Operation:
    """Create the run, or go on with it; ``at`` is in milliseconds since 1970 everywhere."""
    return {"do": "begin", "run": run, "at": at, "title": name, "tags": _tags(tags)}


def log(
    run: str,
    at: int,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    step: int = 0,
    tags: Mapping[str, Any] | None = None,
) -> list[Operation]:
    """Parameters, metrics of one step and tags; texts too long for MLflow become files."""
    kept, tags = {}, dict(tags or {})
    for path, value in (params or {}).items():
        name, whole = valid_key(path), plain_text(value)
        kept[name] = whole[:_PARAMETER]
        if len(whole) > _PARAMETER:
            tags[f"stillhouse.value.{name}"] = whole
    files = [
        text(run, at, f"{valid_key(name)}.txt", plain_text(value))
        for name, value in tags.items()
        if len(plain_text(value)) > _TAG
    ]
    numbers = {valid_key(name): float(value) for name, value in (metrics or {}).items()}
    operation = {"do": "log", "run": run, "at": at, "step": step}
    operation |= {"params": kept, "metrics": numbers, "tags": _tags(tags)}
    return [operation, *files]


def dataset(run: str, at: int, identity: Mapping[str, Any], about: Mapping[str, Any]) -> Operation:
    """The data set as the run's input.

    ``identity`` is what decides its batches, ``about`` what is known of it (shape, sizes).
    """
    source = identity.get("source", "data")
    name = source if isinstance(source, str) else next(iter(source))
    told = {"name": str(name), "digest": fingerprint(identity), "source": canonical_json(identity)}
    return {"do": "dataset", "run": run, "at": at, **told, "profile": plain_text(about)}


def text(run: str, at: int, path: str, content: str) -> Operation:
    """A text file among the run's artifacts."""
    return {"do": "text", "run": run, "at": at, "path": path, "content": content}


def files(run: str, at: int, paths: Iterable[str]) -> Operation:
    """Local files, relative to the search's folder where they lie in it."""
    return {"do": "files", "run": run, "at": at, "paths": list(paths)}


def model(run: str, at: int, folder: str, name: str, register: str | None) -> Operation:
    """A model saved in ``folder``, to be logged and, under a name, registered."""
    operation = {"do": "model", "run": run, "at": at, "folder": folder}
    return operation | {"name": name, "register": register}


def end(run: str, at: int, status: str) -> Operation:
    """``status`` is MLflow's: FINISHED, FAILED or KILLED."""
    return {"do": "end", "run": run, "at": at, "status": status}


def complete(run: str, at: int, operations: Iterable[Operation]) -> Operation:
    """What ends a run, if an earlier launch has begun it and did not see its end."""
    own = [operation for operation in operations if operation["run"] == run]
    return {"do": "complete", "run": run, "at": at, "operations": own}


def end_others(at: int, reason: str) -> Operation:
    """End all runs below the search that are still running: they were interrupted."""
    return {"do": "end_others", "run": SEARCH, "at": at, "reason": reason}


def valid_key(name: str) -> str:
    """A name MLflow takes, cut to its limit with a mark that keeps it distinct."""
    name = re.sub(r"[^\w.\- :/]", "_", name, flags=re.ASCII).strip("/")
    name = re.sub(r"/[./]*/|\.\.+", "_", name) or "_"
    if len(name) <= _KEY:
        return name
    return f"{name[: _KEY - 9]}-{fingerprint(name)[:8]}"


def plain_text(value: Any) -> str:
    """A string as it is, everything else as JSON; what no database takes is replaced."""
    if not isinstance(value, str):
        return json.dumps(value, sort_keys=True, default=str)
    return value.replace("\0", "?").encode(errors="replace").decode()


def _tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {valid_key(name): plain_text(value)[:_TAG] for name, value in tags.items()}
