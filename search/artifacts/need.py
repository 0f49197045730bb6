"""The keys that a run needs in a library, and the look-up of a run by its name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from stillhouse.search.artifacts.limits import UnreadableFile, parse_json
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

_ID_SUFFIX = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True)
class RunRef:
    """A run in a library; the ``id`` is unique, but several runs may share a ``name``.

    ``host`` and ``folder`` locate the run. Both are empty if an earlier version has noted it.
    """

    id: str
    name: str
    host: str = ""
    folder: str = ""

    def __str__(self) -> str:
        """A unique name of this run, and its location."""
        unique_name = f"{self.id}.json" if self.id == self.name else self.id
        return f"{unique_name} ({self.folder} on {self.host})" if self.host else unique_name


@dataclass(frozen=True)
class RunReferences:
    """The keys of the artifacts that a run has built, reused or is building.

    ``is_finished`` is true after the search: the run needs no checkpoints any more.
    """

    run: RunRef
    keys: frozenset[str] = field(default_factory=frozenset)
    is_finished: bool = True


def dump_references(references: RunReferences) -> bytes:
    """The JSON of a run's references."""
    run_ref = references.run
    run_fields = {
        "run": run_ref.name,
        "host": run_ref.host,
        "folder": run_ref.folder,
        "ended": references.is_finished,
    }
    return json.dumps({**run_fields, "keys": sorted(references.keys)}).encode()


def parse_references(run_id: str, text: bytes) -> RunReferences:
    """The references in a JSON text; earlier versions wrote only the list of keys.

    Raises:
        UnreadableFile: the text has another form.
    """
    data = parse_json(text)
    if isinstance(data, list):
        data = {"run": run_id, "keys": data}
    keys = data.get("keys") if isinstance(data, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UnreadableFile("it has no list of keys")
    name, host, folder = (str(data.get(field) or "") for field in ("run", "host", "folder"))
    run_ref = RunRef(run_id, name or name_of(run_id), host, folder)
    return RunReferences(run_ref, frozenset(keys), bool(data.get("ended", True)))


def name_of(run_id: str) -> str:
    """The name of the run with this id."""
    return _ID_SUFFIX.sub("", run_id)


def find_run(name_or_id: str, runs: Iterable[RunRef], field: str) -> RunRef:
    """Find a run by its id, its name or the name of its references file.

    Args:
        field: the option or field that contains ``name_or_id``, for the message.

    Raises:
        ConfigError: there is no such run, or several runs share the name.
    """
    run_refs = list(runs)
    exact_matches = [
        run
        for run in run_refs
        if name_or_id in (f"{run.id}.json", run.id) and name_or_id != run.name
    ]
    matches = exact_matches or [run for run in run_refs if run.name == name_or_id]
    if not matches:
        known_names = sorted({name for run in run_refs for name in (run.id, run.name)})
        raise ConfigError([Problem(field, unknown_message("run", name_or_id, known_names))])
    if len(matches) > 1:
        candidates = ", ".join(sorted(map(str, matches)))
        message = (
            f"{len(matches)} runs are called {name_or_id}; name one of them by its id: {candidates}"
        )
        raise ConfigError([Problem(field, message)])
    return matches[0]
