"""A run as the start of another: its best configuration once more, or a search from there on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.search.experiment.checks.ending import check_test_split
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.former_presets import without_former
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.experiment.schema import Repeats
from stillhouse.search.experiment.yaml_source import read_document
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.best_files import slug
from stillhouse.search.runs.files import FoundFile, find_file
from stillhouse.search.runs.kept import as_launched, has_made, open_library
from stillhouse.search.runs.locations import is_relative
from stillhouse.search.runs.results import read_best
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown


def again(
    name: str, changes: Mapping[str, Any], seeds: int, register: str | None, of: str = ""
) -> Experiment:
    """The winning recipe of a run as an experiment of its own, over ``seeds`` fresh seeds.

    They begin after those over which the winner was settled.

    Args:
        name: a run, an experiment (its newest run), or the id of a search's MLflow run.
        changes: laid over it: other data, a longer schedule.
        of: a value of ``run.repeats.of_each``, whose best is meant instead of the best of all.

    Raises:
        ConfigError: no such run, it has no winner yet, the changes do not fit, or the data has no
            test split.
    """
    told = _best(name, of, changes)
    fresh = {"run.repeats.first_seed": _first_fresh(told), "run.repeats.seeds": seeds}
    repeats = {"run.repeats.top": 1, **fresh, "run.trials": 1}
    named = {} if register is None else {"run.register_as": register}
    laid_over = {**repeats, **named, **changes}
    experiment = load_experiment({**told, "name": f"{told['name']}-again"}, laid_over)
    check_test_split(experiment)
    return experiment


def _first_fresh(told: Mapping[str, Any]) -> int:
    """The first seed behind those of a ``best.yaml``; old ones do not say theirs, which began at 1.

    Raises:
        ConfigError: its ``run`` is not valid.
    """
    repeats = Repeats.parse((told.get("run") or {}).get("repeats") or {}, "run.repeats")
    first = 1 if repeats.first_seed is None else repeats.first_seed
    return first + repeats.seeds


def onwards(name: str, changes: Mapping[str, Any], trials: int, of: str = "") -> Experiment:
    """The search of a run once more, as of other data: from its winner and the neighbours of that.

    A quarter of the ``trials`` are neighbours, each with one value of the winner's changed; from
    there on the sampler proposes, as in the run. ``changes`` and ``of`` as for :func:`again`.

    Raises:
        ConfigError: no such run, it has no winner or searched nothing, or the changes do not fit.
    """
    best = _best(name, of, changes)
    told = _read(find_file(name, "experiment.yaml", changes.get("tracking")).path)
    if not told.get("search"):
        message = "searched nothing; leave --trials out to make its recipe again"
        raise ConfigError([Problem(name, message)])
    start = {"run.start": "file", "run.neighbours": trials // 4, "run.trials": trials}
    won = {part: best[part] for part in ("data", "stages")}
    won |= {"tracking": best["tracking"]} if "tracking" in best else {}
    further = {**told, **won, "name": f"{told['name']}-onwards"}
    return load_experiment(further, {**start, **changes})


def _best(name: str, of: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A run's best configuration; its ``tracking`` is where it was found, if that was MLflow."""
    if of:
        found = FoundFile(_best_of(name, of))
    else:
        found = find_file(name, "best.yaml", changes.get("tracking"))
    told = _read(found.path)
    _check_library(found.path, told, changes)
    return {**told, "tracking": found.tracking} if found.tracking else told


def _read(file: Path) -> dict[str, Any]:
    """An experiment as it is written, with its name, data and stages.

    Where the file lies in a run's folder, its places mean what they meant at the launch.

    Raises:
        ConfigError: it lacks one of them.
    """
    told = (read_best if file.name.startswith("best") else read_document)(file).data
    found = told if isinstance(told, dict) else {}
    for part, kind in {"name": str, "data": dict, "stages": dict}.items():
        if not isinstance(found.get(part), kind):
            raise ConfigError([Problem(str(file), f"is no experiment: it has no {part}")])
    folder = _folder_of(file)
    return as_launched(folder, found) if folder else without_former(found)


def _folder_of(file: Path) -> RunFolder | None:
    """The run's folder in which a file lies; none where MLflow gave a copy."""
    there = (file.parent / "experiment.yaml").exists()
    return RunFolder(file.parent) if there else None


def _check_library(file: Path, told: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """What is used again rests on a library; another may be named by ``changes``.

    Raises:
        ConfigError: it is not there, as where it is not mounted, or lies on another machine.
    """
    uri, folder = told.get("library"), _folder_of(file)
    if not isinstance(uri, str) or "library" in changes or is_relative(uri):
        return
    if folder is None or has_made(folder):
        name = folder.name if folder else file.name
        open_library(uri, name, "mount it, or name another: --set library=PLACE")


def _best_of(name: str, value: str) -> Path:
    folder = RunFolder.find(name)
    found = {path.stem.rpartition("-")[2]: path for path in folder.path.glob("best-*.yaml")}
    if slug(value) not in found:
        raise ConfigError([Problem("--of", unknown("value", value, found))])
    return found[slug(value)]
