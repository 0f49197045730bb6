"""What a search needs of a library, and which run a person means by a name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from stillhouse.search.artifacts.limits import Unreadable, plain
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown

_MARK = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True)
class Run:
    """A run as a library knows it. ``id`` belongs to one run; several may share a ``name``.

    ``host`` and ``folder`` say where it runs. Both are empty where an earlier version noted it.
    """

    id: str
    name: str
    host: str = ""
    folder: str = ""

    def __str__(self) -> str:
        """How to name this run alone, and where it is."""
        asked = f"{self.id}.json" if self.id == self.name else self.id
        return f"{asked} ({self.folder} on {self.host})" if self.host else asked


@dataclass(frozen=True)
class Need:
    """The keys that a run needs: of what it made or reused, and of what it makes just now.

    ``ended`` is true once the search has finished: it needs no half-done stage any more.
    """

    run: Run
    keys: frozenset[str] = field(default_factory=frozenset)
    ended: bool = True


def write_need(need: Need) -> bytes:
    """The text of a note."""
    run = need.run
    told = {"run": run.name, "host": run.host, "folder": run.folder, "ended": need.ended}
    return json.dumps({**told, "keys": sorted(need.keys)}).encode()


def read_need(run_id: str, text: bytes) -> Need:
    """The need that a note says; earlier versions wrote the list of keys alone.

    Raises:
        Unreadable: it is no note.
    """
    told = plain(text)
    if isinstance(told, list):
        told = {"run": run_id, "keys": told}
    keys = told.get("keys") if isinstance(told, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Unreadable("it has no list of keys")
    name, host, folder = (str(told.get(field) or "") for field in ("run", "host", "folder"))
    run = Run(run_id, name or name_of(run_id), host, folder)
    return Need(run, frozenset(keys), bool(told.get("ended", True)))


def name_of(run_id: str) -> str:
    """The name of the run with this id."""
    return _MARK.sub("", run_id)


def the_run(asked: str, runs: Iterable[Run], field: str) -> Run:
    """The run that ``asked`` names, by its id, by its name, or by the file of its note.

    Args:
        field: what the person gave ``asked`` for; it begins the message.

    Raises:
        ConfigError: there is no such run, or several share the name.
    """
    known = list(runs)
    exact = [run for run in known if asked in (f"{run.id}.json", run.id) and asked != run.name]
    found = exact or [run for run in known if run.name == asked]
    if not found:
        names = sorted({name for run in known for name in (run.id, run.name)})
        raise ConfigError([Problem(field, unknown("run", asked, names))])
    if len(found) > 1:
        some = ", ".join(sorted(map(str, found)))
        message = f"{len(found)} runs are called {asked}; name one of them by its id: {some}"
        raise ConfigError([Problem(field, message)])
    return found[0]
