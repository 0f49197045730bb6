"""The study of a run in a storage: created by the search, found by readers.

In the run's own journal there is one. In a database it is called as the run is; another machine may
have a run of that name there, and then it gets an addition. The run remembers it in ``study.json``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import uuid
from pathlib import Path
from typing import Literal

import optuna
from optuna.storages import BaseStorage

from stillhouse.search.core.durable import read_json_mapping, write_atomically
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.spaces.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)

STUDY_NAME_FILE = "study.json"


def open_study(experiment: Experiment, storage: BaseStorage, folder: Path) -> optuna.Study:
    """The run's own study, to be written; made where it is missing.

    Raises:
        ConfigError: its name in a database is lost.
    """
    study = find_study(experiment, storage, folder)
    if study is None:
        study = _create_study(experiment, storage, folder)
    elif experiment.study is not None and read_json_mapping(folder / STUDY_NAME_FILE) is None:
        _write_name(study, folder)
    return study


def find_study(experiment: Experiment, storage: BaseStorage, folder: Path) -> optuna.Study | None:
    """The run's own study, to be read; none if there is none yet.

    Raises:
        ConfigError: its name in a database is lost.
    """
    name = experiment.name if experiment.study is None else _read_name(storage, folder)
    if name is None:
        return None
    with contextlib.suppress(KeyError):
        return optuna.load_study(storage=storage, study_name=name)
    return None


def _create_study(experiment: Experiment, storage: BaseStorage, folder: Path) -> optuna.Study:
    directions: list[Literal["maximize", "minimize"]] = [
        "maximize" if goal.maximize else "minimize" for goal in experiment.goals
    ]
    name = experiment.name if experiment.study is None else folder.name
    while True:
        try:
            study = optuna.create_study(storage=storage, study_name=name, directions=directions)
        except optuna.exceptions.DuplicatedStudyError:
            name = f"{folder.name}-{uuid.uuid4().hex[:8]}"
        else:
            break
    if experiment.study is not None:
        _write_name(study, folder)
    return study


def _write_name(study: optuna.Study, folder: Path) -> None:
    write_atomically(folder / STUDY_NAME_FILE, json.dumps({"name": study.study_name}))


def _read_name(storage: BaseStorage, folder: Path) -> str | None:
    """The study's name in a database; none before there is a study.

    Raises:
        ConfigError: the file that says so is damaged, and several could be it.
    """
    try:
        data = read_json_mapping(folder / STUDY_NAME_FILE) or {}
    except FileNotFoundError:
        return None
    if isinstance(data.get("name"), str):
        return str(data["name"])
    pattern = re.compile(rf"{re.escape(folder.name)}(-[0-9a-f]{{8}})?")
    names = [name for name in optuna.get_all_study_names(storage) if pattern.fullmatch(name)]
    if len(names) != 1:
        message = (
            f"is damaged, and {'none' if not names else ' or '.join(names)} of the database's "
            'studies can be this run\'s; write {"name": "THE STUDY\'S NAME"} into it'
        )
        raise ConfigError([Problem(str(folder / STUDY_NAME_FILE), message)])
    log.warning(
        "%s is damaged: %s is the only study that can be this run's", STUDY_NAME_FILE, names[0]
    )
    return names[0]
