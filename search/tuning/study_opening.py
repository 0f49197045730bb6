"""Which study of a storage is a run's: made by the one who searches, found by those who look.

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

from stillhouse.search.core.durable import read_mapping, write_whole
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.spaces.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)

FILE = "study.json"


def open_study(experiment: Experiment, storage: BaseStorage, folder: Path) -> optuna.Study:
    """The run's own study, to be written; made where it is missing.

    Raises:
        ConfigError: its name in a database is lost.
    """
    found = find_study(experiment, storage, folder)
    if found is None:
        found = _make(experiment, storage, folder)
    elif experiment.study is not None and read_mapping(folder / FILE) is None:
        _note(found, folder)
    return found


def find_study(experiment: Experiment, storage: BaseStorage, folder: Path) -> optuna.Study | None:
    """The run's own study, to be read; none if there is none yet.

    Raises:
        ConfigError: its name in a database is lost.
    """
    name = experiment.name if experiment.study is None else _noted(storage, folder)
    if name is None:
        return None
    with contextlib.suppress(KeyError):
        return optuna.load_study(storage=storage, study_name=name)
    return None


def _make(experiment: Experiment, storage: BaseStorage, folder: Path) -> optuna.Study:
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
        _note(study, folder)
    return study


def _note(study: optuna.Study, folder: Path) -> None:
    write_whole(folder / FILE, json.dumps({"name": study.study_name}))


def _noted(storage: BaseStorage, folder: Path) -> str | None:
    """The study's name in a database; none before there is a study.

    Raises:
        ConfigError: the file that says so is damaged, and several could be it.
    """
    try:
        told = read_mapping(folder / FILE) or {}
    except FileNotFoundError:
        return None
    if isinstance(told.get("name"), str):
        return str(told["name"])
    own = re.compile(rf"{re.escape(folder.name)}(-[0-9a-f]{{8}})?")
    names = [name for name in optuna.get_all_study_names(storage) if own.fullmatch(name)]
    if len(names) != 1:
        message = (
            f"is damaged, and {'none' if not names else ' or '.join(names)} of the database's "
            'studies can be this run\'s; write {"name": "THE STUDY\'S NAME"} into it'
        )
        raise ConfigError([Problem(str(folder / FILE), message)])
    log.warning("%s is damaged: %s is the only study that can be this run's", FILE, names[0])
    return names[0]
