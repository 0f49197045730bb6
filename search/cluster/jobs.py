"""A search as a job of the cluster: what goes along, and what the head is told to run.

The driver then runs on the head and outlives the machine that submitted it. With it travel the
packages as they are here, the experiment and its files of weights; what the experiment says of
other places must mean the same on the cluster.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.search.core.addresses import has_secret, remedy_of
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.setting_paths import parts
from stillhouse.spaces.config.problems import ConfigError, Problem

FILE = "experiment.yaml"
RUNS = "$HOME/stillhouse-runs"
"""Where runs are kept on a head that has no ``STILLHOUSE_RUNS``: never in a job's own folder, which
Ray removes."""


@dataclass(frozen=True)
class Job:
    """What the head runs, in a folder with the files of ``folder``; ``name`` is for people."""

    name: str
    entrypoint: str
    folder: Path | None = None


def launching(experiment: Experiment, folder: Path) -> tuple[Job, str]:
    """The job of a launch, its files put into ``folder``; and where MLflow's data will be.

    Raises:
        ConfigError: library, tracking or data lie where only this machine finds them, or an
            address holds a password, which is written into no file.
    """
    problems = [*_library(experiment.library), *_data(experiment), *_secrets(experiment)]
    if problems:
        raise ConfigError(problems)
    told = _carried(experiment.plain(), folder)
    place = _tracking(told.pop("tracking", None))
    (folder / FILE).write_text(to_yaml(told), encoding="utf-8")
    # Double quotes: what the head's HOME is, its own shell knows.
    entrypoint = f'{_run(["launch", FILE])} --set "tracking={place}"'
    return Job(experiment.name, entrypoint, folder), place


def going_on(name: str, trials: int = 0) -> Job:
    """The job of a resume, or of an extension by ``trials``, of a run that the head has."""
    words = ["extend", name, "--trials", str(trials)] if trials else ["resume", name]
    return Job(name, _run(words))


def _run(words: Sequence[str]) -> str:
    return (
        f'STILLHOUSE_RUNS="${{STILLHOUSE_RUNS:-{RUNS}}}" '
        f"exec python -m stillhouse.search.cli {shlex.join(words)} --address auto"
    )


def _library(uri: str) -> list[Problem]:
    if "://" in uri or uri.startswith(("/", "~")):
        return []
    message = (
        f"{uri!r} is a folder beside this file, which the cluster does not see; "
        "--set library=s3://BUCKET/PATH, or the whole path of a folder that all nodes share"
    )
    return [Problem("library", message)]


def _data(experiment: Experiment) -> list[Problem]:
    own = {f"stages.{n}.data.root": e.get("data") for n, e in experiment.stages.items()}
    roots = {path: data.get("root") for path, data in own.items() if isinstance(data, Mapping)}
    return [
        Problem(
            path,
            f"{root!r} is a folder beside this file, which the cluster does not see; "
            f"--set {path}=/PATH/ON/ALL/NODES (and download: true for a published set)",
        )
        for path, root in {"data.root": experiment.data.root, **roots}.items()
        if isinstance(root, str) and not root.startswith(("/", "~"))
    ]


def _secrets(experiment: Experiment) -> list[Problem]:
    return [
        Problem(field, f"holds a password, which no job carries; without it, {remedy_of(uri)}")
        for field, uri in {"tracking": experiment.tracking, "study": experiment.study}.items()
        if uri and has_secret(uri)
    ]


def _tracking(uri: str | None) -> str:
    """MLflow's URI as the head takes it: a database in the head's home for one beside here.

    Raises:
        ConfigError: it cannot stand in a command.
    """
    driver, _, file = (uri or "sqlite:///mlflow.db").partition(":///")
    if driver.startswith("sqlite") and not file.startswith(("/", "~")):
        uri = f"{driver}:///$HOME/{file}"
    assert uri is not None
    if set(uri) & set('"`\\') or "$" in uri.replace("$HOME", ""):
        message = "holds a quote, a backslash or a dollar sign, which a job's command cannot carry"
        raise ConfigError([Problem("tracking", message)])
    return uri


def _carried(told: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The experiment with its files of weights in ``folder``, and named as they lie there."""
    told["stages"] = _with_files(told["stages"], folder, False)
    if "search" in told:
        told["search"] = {
            path: _with_files(domain, folder, "weights" in parts(path))
            for path, domain in told["search"].items()
        }
    return told


def _with_files(value: Any, folder: Path, weights: bool) -> Any:
    """``weights`` says whether a text in here is the path of a file of weights."""
    if isinstance(value, Mapping):
        return {
            key: _with_files(inner, folder, weights or key == "weights")
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_files(inner, folder, weights) for inner in value]
    if weights and isinstance(value, str) and Path(value).expanduser().is_file():
        return _taken_along(Path(value).expanduser(), folder)
    return value


def _taken_along(file: Path, folder: Path) -> str:
    """Copied under a name of its own, so that two files of one name stay two."""
    digest = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:8]
    name = f"weights/{digest}-{file.name}"
    (folder / "weights").mkdir(exist_ok=True)
    shutil.copyfile(file, folder / name)
    return name
