"""A run's folder: all files that one search writes on the driver's disk.

``stillhouse-runs/<name>-<n>/`` holds ``experiment.yaml`` (as resumed and extended),
``study.journal``, ``state.json``, ``status.json`` and ``tracking/`` (the MLflow outbox). At the end
it also holds ``best.yaml``, ``outcome.json``, ``trials.csv``, ``report.html`` and the pictures.
The process that runs the search holds ``driver.lock``. ``run.json`` has the globally unique run id.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from stillhouse.search.artifacts.limits import is_safe_name
from stillhouse.search.core.durable import read_json_mapping, sync_folder, write_atomically
from stillhouse.search.experiment.yaml_source import with_end_mark
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

log = logging.getLogger(__name__)

_ELSEWHERE_REMEDY = (
    "if it lies elsewhere, set STILLHOUSE_RUNS or change to the folder of its launch"
)
LOCK_TIMEOUT_S = 5.0
"""Seconds to wait for another driver of the same run, which may be ending."""


class RunLocked(ConfigError):
    """Another process runs this search."""


def runs_root() -> Path:
    """The folder of all runs: ``$STILLHOUSE_RUNS``, or else ``./stillhouse-runs``."""
    return Path(os.environ.get("STILLHOUSE_RUNS", "stillhouse-runs")).expanduser().absolute()


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; its name is the run's."""

    path: Path

    @classmethod
    def new(cls, name: str) -> RunFolder:
        """Create a folder ``<name>-<n>`` with the next free number.

        Raises:
            ConfigError: it cannot be created.
        """
        root = runs_root()
        try:
            root.mkdir(parents=True, exist_ok=True)
            number = max([_run_number(path.name, name) for path in root.iterdir()], default=0) + 1
            while True:
                path = root / f"{name}-{number}"
                try:
                    path.mkdir()
                    sync_folder(root)
                    return cls(path)._with_id()
                except FileExistsError:  # another launch took it
                    number += 1
        except OSError as error:
            raise _unusable_root(root, "cannot be written", error) from None

    @classmethod
    def find(cls, name: str) -> RunFolder:
        """The run called ``name``, or the newest run of the experiment ``name``.

        Raises:
            ConfigError: there is no such run.
        """
        root = runs_root()
        try:
            names = [p.name for p in root.iterdir() if p.is_dir()] if root.exists() else []
        except OSError as error:
            raise _unusable_root(root, "cannot be read", error) from None
        return cls(root / newest_run(name, names, str(root), _ELSEWHERE_REMEDY))

    @property
    def name(self) -> str:
        return self.path.name

    @contextlib.contextmanager
    def locked(self, timeout: float | None = None) -> Iterator[None]:
        """Hold the lock of the process that runs this search, while the block runs.

        Raises:
            RunLocked: another process held it for ``timeout`` seconds (default
                ``LOCK_TIMEOUT_S``).
            ConfigError: the folder cannot be written.
        """
        lock = FileLock(self.path / "driver.lock", thread_local=False)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S if timeout is None else timeout)
        except Timeout:
            message = "another process runs it; stop that one first, or wait until it has ended"
            raise RunLocked([Problem(self.name, message)]) from None
        except OSError as error:
            message = f"cannot lock {self.path / 'driver.lock'}: {error.strerror}"
            raise ConfigError([Problem(self.name, message)]) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def id(self) -> str:
        """The unique id of the run; in folders of earlier versions it is the name."""
        run_id = self.read_json("run.json").get("id")
        return run_id if isinstance(run_id, str) and is_safe_name(run_id) else self.name

    def _with_id(self) -> RunFolder:
        """Write a new unique id into the folder."""
        self.write_json("run.json", {"id": f"{self.name}-{uuid.uuid4().hex[:8]}"})
        return self

    def write(self, name: str, text: str) -> Path:
        """Replace a file atomically."""
        return write_atomically(self.path / name, text)

    def write_yaml(self, name: str, text: str) -> Path:
        """Replace a YAML file; an end mark shows readers that it is complete."""
        return self.write(name, with_end_mark(text))

    def write_json(self, name: str, data: Any) -> Path:
        """Replace a file by JSON data."""
        return self.write(name, json.dumps(data, indent=1))

    def read_json(self, name: str, consequence: str = "") -> Any:
        """The data in a file; an empty mapping if the file is missing or damaged.

        ``consequence`` is the text of the warning about a damaged file; "" gives no warning.
        """
        path = self.path / name
        if not path.exists():
            return {}
        data = read_json_mapping(path)
        if data is None and consequence:
            log.warning("%s is damaged, as by a full disk: %s", path, consequence)
        return data or {}

    def seconds_so_far(self) -> float:
        """Run time of the search, with all earlier launches."""
        for name in ("state.json", "status.json", "outcome.json"):
            seconds = self.read_json(name).get("seconds")
            if isinstance(seconds, int | float):
                return float(seconds)
        return 0.0


def newest_run(name: str, runs: Iterable[str], location: str, remedy: str = "") -> str:
    """The run called ``name``, or the newest run of the experiment ``name``.

    Raises:
        ConfigError: there is none. The message gives ``location``, where the runs are, and
            ``remedy``.
    """
    names = list(runs)
    if name in names:
        return name
    numbered = {number: n for n in names if (number := _run_number(n, name))}
    if not numbered:
        problem, _, suggestion = unknown_message("run", name, names).partition("; ")
        message = (
            f"{problem} in {location}; {suggestion}"
            if names
            else f"{problem} in {location}, which has no runs"
        )
        raise ConfigError([Problem("", "; ".join(filter(None, (message, remedy))))])
    return numbered[max(numbered)]


def _unusable_root(root: Path, problem: str, error: OSError) -> ConfigError:
    """The error for an unusable folder of all runs, with the remedy."""
    reason = "is a file, not a folder" if root.is_file() else f"{problem}: {error.strerror}"
    return ConfigError([Problem("", f"{root} {reason}; set STILLHOUSE_RUNS to another folder")])


def _run_number(folder: str, name: str) -> int:
    """The n of ``<name>-<n>``; 0 for any other folder."""
    head, _, tail = folder.rpartition("-")
    return int(tail) if head == name and tail.isdigit() else 0
