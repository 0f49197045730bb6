"""A run's folder: everything that one search leaves on the driver's disk.

``stillhouse-runs/<name>-<n>/`` holds ``experiment.yaml`` (what was asked, as resumed and extended),
``study.journal``, ``state.json``, ``status.json`` (how it stands), ``tracking/`` (what MLflow has
not been told yet), and at the end ``best.yaml``, ``outcome.json``, ``trials.csv``, ``report.html``
and the pictures. ``run.json`` holds its id, which no other run has, wherever that lies.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.library.bounds import is_word
from spaces.problem import ConfigError, Problem, unknown


def runs_root() -> Path:
    """Where runs are kept: ``$STILLHOUSE_RUNS``, or ``stillhouse-runs`` in the working folder."""
    return Path(os.environ.get("STILLHOUSE_RUNS", "stillhouse-runs")).expanduser().absolute()


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; its name is the run's."""

    path: Path

    @classmethod
    def new(cls, name: str) -> RunFolder:
        """A fresh folder ``<name>-<n>`` with the next free number.

        Raises:
            ConfigError: it cannot be made.
        """
        root = runs_root()
        try:
            root.mkdir(parents=True, exist_ok=True)
            number = max([_number(path.name, name) for path in root.iterdir()], default=0) + 1
            while True:
                path = root / f"{name}-{number}"
                try:
                    path.mkdir()
                    return cls(path)._with_id()
                except FileExistsError:  # another launch took it
                    number += 1
        except OSError as error:
            message = f"cannot write to {root}: {error.strerror}; set STILLHOUSE_RUNS"
            raise ConfigError([Problem("runs", message)]) from None

    @classmethod
    def find(cls, name: str) -> RunFolder:
        """The run called ``name``, or the newest run of the experiment ``name``.

        Raises:
            ConfigError: there is none.
        """
        root = runs_root()
        names = [p.name for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
        return cls(root / newest(name, names, str(root)))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def id(self) -> str:
        """What tells the run from all others of its name; folders of earlier versions have none,
        and their id is the name."""
        try:
            told = self.read_json("run.json")
        except ValueError:  # damaged
            return self.name
        found = told.get("id") if isinstance(told, dict) else None
        return found if isinstance(found, str) and is_word(found) else self.name

    def _with_id(self) -> RunFolder:
        """The same folder, with an id that no other run has."""
        self.write_json("run.json", {"id": f"{self.name}-{uuid.uuid4().hex[:8]}"})
        return self

    def write(self, name: str, text: str) -> Path:
        """Replace a file, whole or not at all."""
        aside = self.path / f".{name}.part"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self.path / name)
        return self.path / name

    def write_json(self, name: str, data: Any) -> Path:
        return self.write(name, json.dumps(data, indent=1))

    def read_json(self, name: str) -> Any:
        """The file's data, or an empty mapping where it is not there yet."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def newest(name: str, runs: Iterable[str], where: str) -> str:
    """Of ``runs`` the one called ``name``, or the newest of the experiment ``name``.

    Raises:
        ConfigError: there is none ``where`` they were looked for.
    """
    names = list(runs)
    if name in names:
        return name
    numbered = {number: n for n in names if (number := _number(n, name))}
    if not numbered:
        raise ConfigError([Problem(where, unknown("run", name, names))])
    return numbered[max(numbered)]


def _number(folder: str, name: str) -> int:
    """The n of ``<name>-<n>``; 0 for any other folder."""
    head, _, tail = folder.rpartition("-")
    return int(tail) if head == name and tail.isdigit() else 0
