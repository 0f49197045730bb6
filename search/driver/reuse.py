"""Experiments from the winner of a run: repeat it, or search on from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.search.experiment.checks.ending import require_test_split
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.former_presets import without_removed_presets
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.schema import RepeatSettings
from stillhouse.search.experiment.yaml_source import read_document
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.best_files import slug
from stillhouse.search.runs.files import FoundFile, find_run_file
from stillhouse.search.runs.kept import has_artifacts, open_existing_library, upgrade_document
from stillhouse.search.runs.locations import is_relative_location
from stillhouse.search.runs.results import read_best
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message


def repeat_winner(
    name: str, changes: Mapping[str, Any], seeds: int, register: str | None, group: str = ""
) -> Experiment:
    """An experiment that repeats the winning recipe of a run over ``seeds`` new seeds.

    The new seeds follow the seeds of the finalists.

    Args:
        name: a run, an experiment (its newest run), or the id of a search's MLflow run.
        changes: replaced settings, such as other data or a longer schedule.
        register: the name in MLflow's registry, if any.
        group: a value of ``run.repeats.of_each``; its winner is taken, not the overall one.

    Raises:
        ConfigError: there is no such run, it has no winner yet, the changes are not valid, or the
            data has no test split.
    """
    document = _read_best_of_run(name, group, changes)
    fresh_seeds = {
        "run.repeats.first_seed": _first_fresh_seed(document),
        "run.repeats.seeds": seeds,
    }
    repeats = {"run.repeats.top": 1, **fresh_seeds, "run.trials": 1}
    registration = {} if register is None else {"run.register_as": register}
    overrides = {**repeats, **registration, **changes}
    experiment = load_experiment({**document, "name": f"{document['name']}-again"}, overrides)
    require_test_split(experiment)
    return experiment


def _first_fresh_seed(document: Mapping[str, Any]) -> int:
    """The first seed after those of a ``best.yaml``; old files name none and began at 1.

    Raises:
        ConfigError: its ``run`` is not valid.
    """
    repeats = RepeatSettings.parse((document.get("run") or {}).get("repeats") or {}, "run.repeats")
    first_seed = 1 if repeats.first_seed is None else repeats.first_seed
    return first_seed + repeats.seeds


def continue_from_winner(
    name: str, changes: Mapping[str, Any], num_trials: int, group: str = ""
) -> Experiment:
    """An experiment that repeats the search of a run, starting from its winner.

    A quarter of the ``num_trials`` are neighbours, each with one changed value of the winner. The
    sampler proposes the others. ``changes`` and ``group`` as for :func:`repeat_winner`.

    Raises:
        ConfigError: there is no such run, it has no winner or no search space, or the changes are
            not valid.
    """
    best = _read_best_of_run(name, group, changes)
    document = _read_experiment(
        find_run_file(name, "experiment.yaml", changes.get("tracking")).path
    )
    if not document.get("search"):
        message = "searched nothing; without --trials its recipe is repeated"
        raise ConfigError([Problem(name, message)])
    run_settings = {
        "run.start": "file",
        "run.neighbours": num_trials // 4,
        "run.trials": num_trials,
    }
    winner_parts = {part: best[part] for part in ("data", "stages")}
    winner_parts |= {"tracking": best["tracking"]} if "tracking" in best else {}
    merged = {**document, **winner_parts, "name": f"{document['name']}-onwards"}
    return load_experiment(merged, {**run_settings, **changes})


def _read_best_of_run(name: str, group: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The best configuration of a run; its ``tracking`` is the MLflow store that it came from."""
    if group:
        best_file = FoundFile(_best_file_of_group(name, group))
    else:
        best_file = find_run_file(name, "best.yaml", changes.get("tracking"))
    document = _read_experiment(best_file.path)
    _check_library(best_file.path, document, changes)
    return {**document, "tracking": best_file.tracking} if best_file.tracking else document


def _read_experiment(file: Path) -> dict[str, Any]:
    """The document of an experiment file, with the absolute paths of its launch.

    Raises:
        ConfigError: it has no name, data or stages.
    """
    data = (read_best if file.name.startswith("best") else read_document)(file).data
    document = data if isinstance(data, dict) else {}
    for field, kind in {"name": str, "data": dict, "stages": dict}.items():
        if not isinstance(document.get(field), kind):
            raise ConfigError([Problem(str(file), f"is no experiment: it has no {field}")])
    folder = _run_folder_of(file)
    return upgrade_document(folder, document) if folder else without_removed_presets(document)


def _run_folder_of(file: Path) -> RunFolder | None:
    """The run folder of a file; None for a copy from MLflow."""
    is_run_folder = (file.parent / "experiment.yaml").exists()
    return RunFolder(file.parent) if is_run_folder else None


def _check_library(file: Path, document: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Check that the library of a run exists, unless ``changes`` names another one.

    Raises:
        ConfigError: it is missing, for example not mounted or on another machine.
    """
    uri, folder = document.get("library"), _run_folder_of(file)
    if not isinstance(uri, str) or "library" in changes or is_relative_location(uri):
        return
    if folder is None or has_artifacts(folder):
        name = folder.name if folder else file.name
        open_existing_library(uri, name, "mount it, or name another: --set library=PLACE")


def _best_file_of_group(name: str, value: str) -> Path:
    folder = RunFolder.find(name)
    files = {path.stem.rpartition("-")[2]: path for path in folder.path.glob("best-*.yaml")}
    if slug(value) not in files:
        raise ConfigError([Problem("--of", unknown_message("value", value, files))])
    return files[slug(value)]
