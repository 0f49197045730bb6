"""A search as a job of the cluster: its files and its command.

The driver of a job runs on the head, and goes on when the submitting machine is switched off. The
job carries the local packages, the experiment and its weight files. Every other address in the
experiment must mean the same on the cluster.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillhouse.search.core.addresses import credential_remedy, has_secret
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.setting_paths import split_path
from stillhouse.spaces.config.problems import ConfigError, Problem

EXPERIMENT_FILE = "experiment.yaml"
RUNS_ON_HEAD = "$HOME/stillhouse-runs"
"""The folder of runs on a head without ``STILLHOUSE_RUNS``; Ray deletes a job's own folder."""


@dataclass(frozen=True)
class RayJob:
    """A command for the head, and the folder whose files it needs; ``name`` is for display."""

    name: str
    entrypoint: str
    folder: Path | None = None


def launch_job(experiment: Experiment, folder: Path) -> tuple[RayJob, str]:
    """The job that launches a search, and the URI of its MLflow data.

    Args:
        folder: receives the files of the job.

    Raises:
        ConfigError: the library, the tracking data or the data set is local to this machine, or
            an address contains a password.
    """
    problems = [
        *_check_library(experiment.library),
        *_check_data(experiment),
        *_check_secrets(experiment),
    ]
    if problems:
        raise ConfigError(problems)
    document = _with_copied_weights(experiment.plain(), folder)
    tracking_uri = _tracking_on_head(document.pop("tracking", None))
    (folder / EXPERIMENT_FILE).write_text(to_yaml(document), encoding="utf-8")
    # Double quotes: the shell of the head expands $HOME.
    entrypoint = f'{_entrypoint(["launch", EXPERIMENT_FILE])} --set "tracking={tracking_uri}"'
    return RayJob(experiment.name, entrypoint, folder), tracking_uri


def resume_job(name: str, num_trials: int = 0) -> RayJob:
    """The job that resumes a run of the head, or extends it by ``num_trials``."""
    words = ["extend", name, "--trials", str(num_trials)] if num_trials else ["resume", name]
    return RayJob(name, _entrypoint(words))


def _entrypoint(words: Sequence[str]) -> str:
    return (
        f'STILLHOUSE_RUNS="${{STILLHOUSE_RUNS:-{RUNS_ON_HEAD}}}" '
        f"exec python -m stillhouse.search.cli {shlex.join(words)} --address auto"
    )


def _check_library(uri: str) -> list[Problem]:
    if "://" in uri or uri.startswith(("/", "~")):
        return []
    message = (
        f"{uri!r} is a folder beside this file, which the cluster does not see; "
        "--set library=s3://BUCKET/PATH, or the whole path of a folder that all nodes share"
    )
    return [Problem("library", message)]


def _check_data(experiment: Experiment) -> list[Problem]:
    stage_data = {f"stages.{n}.data.root": e.get("data") for n, e in experiment.stages.items()}
    roots = {
        path: data.get("root") for path, data in stage_data.items() if isinstance(data, Mapping)
    }
    return [
        Problem(
            path,
            f"{root!r} is a folder beside this file, which the cluster does not see; "
            f"--set {path}=/PATH/ON/ALL/NODES (and download: true for a published set)",
        )
        for path, root in {"data.root": experiment.data.root, **roots}.items()
        if isinstance(root, str) and not root.startswith(("/", "~"))
    ]


def _check_secrets(experiment: Experiment) -> list[Problem]:
    return [
        Problem(
            field, f"holds a password, which no job carries; without it, {credential_remedy(uri)}"
        )
        for field, uri in {"tracking": experiment.tracking, "study": experiment.study}.items()
        if uri and has_secret(uri)
    ]


def _tracking_on_head(uri: str | None) -> str:
    """The MLflow URI for the head: a relative SQLite file moves to the head's home.

    Raises:
        ConfigError: the URI cannot be quoted in a command.
    """
    driver, _, file = (uri or "sqlite:///mlflow.db").partition(":///")
    if driver.startswith("sqlite") and not file.startswith(("/", "~")):
        uri = f"{driver}:///$HOME/{file}"
    assert uri is not None
    if set(uri) & set('"`\\') or "$" in uri.replace("$HOME", ""):
        message = "holds a quote, a backslash or a dollar sign, which a job's command cannot carry"
        raise ConfigError([Problem("tracking", message)])
    return uri


def _with_copied_weights(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Copy the experiment's weight files to ``folder``, and refer to the copies."""
    document["stages"] = _copy_weights_in(document["stages"], folder, False)
    if "search" in document:
        document["search"] = {
            path: _copy_weights_in(domain, folder, "weights" in split_path(path))
            for path, domain in document["search"].items()
        }
    return document


def _copy_weights_in(value: Any, folder: Path, is_weights: bool) -> Any:
    """Copy the weight files in ``value``; with ``is_weights`` a string is the path of one."""
    if isinstance(value, Mapping):
        return {
            key: _copy_weights_in(inner, folder, is_weights or key == "weights")
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_copy_weights_in(inner, folder, is_weights) for inner in value]
    if is_weights and isinstance(value, str) and Path(value).expanduser().is_file():
        return _copy_weights_file(Path(value).expanduser(), folder)
    return value


def _copy_weights_file(file: Path, folder: Path) -> str:
    """Copy a file under a unique name, since two weight files may share theirs."""
    digest = hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:8]
    name = f"weights/{digest}-{file.name}"
    (folder / "weights").mkdir(exist_ok=True)
    shutil.copyfile(file, folder / name)
    return name
