"""What a run left behind: read again, written out, and made the start of another."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from search.checks.ending import check_test_split
from search.document import read_document
from search.experiment import Experiment, to_yaml
from search.folder import RunFolder
from search.library.record import Record
from search.library.store import Damaged, Library
from search.loading import load_experiment
from search.outcome import Outcome, Repeated, to_plain, winner, winners, with_measured
from search.report import write_report
from search.report.roles import brief
from search.study import Study
from search.tracking import fetch_artifact, resolve_uri
from spaces.problem import ConfigError, Problem, unknown


def again(
    name: str, changes: Mapping[str, Any], seeds: int, register: str | None, of: str = ""
) -> Experiment:
    """The winning recipe of a run as an experiment of its own, over ``seeds`` fresh seeds.

    Args:
        name: a run, an experiment (its newest run), or the id of a search's MLflow run.
        changes: laid over it: other data, a longer schedule.
        of: a value of ``run.repeats.of_each``, whose best is meant instead of the best of all.

    Raises:
        ConfigError: no such run, it has no winner yet, the changes do not fit, or the data has no
            test split with known labels.
    """
    file = _best_of(name, of) if of else _file_of(name, "best.yaml")
    told = _read(file)
    repeats = {"run.repeats.top": 1, "run.repeats.seeds": seeds, "run.trials": 1}
    named = {} if register is None else {"run.register_as": register}
    laid_over = {**repeats, **named, **changes}
    experiment = load_experiment({**told, "name": f"{told['name']}-again"}, laid_over)
    check_test_split(experiment)
    return experiment


def onwards(name: str, changes: Mapping[str, Any], trials: int, of: str = "") -> Experiment:
    """The search of a run once more, as of other data: from its winner and the neighbours of that.

    A quarter of the ``trials`` are neighbours, each with one value of the winner's changed; from
    there on the sampler proposes, as in the run. ``changes`` and ``of`` as for :func:`again`.

    Raises:
        ConfigError: no such run, it has no winner or searched nothing, or the changes do not fit.
    """
    best = _read(_best_of(name, of) if of else _file_of(name, "best.yaml"))
    told = _read(_file_of(name, "experiment.yaml"))
    if not told.get("search"):
        message = "searched nothing; leave --trials out to make its recipe again"
        raise ConfigError([Problem(name, message)])
    start = {"run.start": "file", "run.neighbours": trials // 4, "run.trials": trials}
    won = {part: best[part] for part in ("data", "stages")}
    further = {**told, **won, "name": f"{told['name']}-onwards"}
    return load_experiment(further, {**start, **changes})


def _read(file: Path) -> dict[str, Any]:
    """An experiment as it is written, with its name, data and stages.

    Raises:
        ConfigError: it lacks one of them.
    """
    told = read_document(file).data
    found = told if isinstance(told, dict) else {}
    for part, kind in {"name": str, "data": dict, "stages": dict}.items():
        if not isinstance(found.get(part), kind):
            raise ConfigError([Problem(str(file), f"is no experiment: it has no {part}")])
    return found


def _best_of(name: str, value: str) -> Path:
    folder = RunFolder.find(name)
    found = {path.stem.rpartition("-")[2]: path for path in folder.path.glob("best-*.yaml")}
    if slug(value) not in found:
        raise ConfigError([Problem("--of", unknown("value", value, found))])
    return found[slug(value)]


def slug(text: str) -> str:
    """Text as part of a file's name: ``67000`` for ``67,000``, nothing but word letters."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=\d)[,_](?=\d)", "", text)).strip("_")


def _file_of(name: str, file: str) -> Path:
    """A file of a run's, or of the run that has this id in MLflow."""
    try:
        folder = RunFolder.find(name)
    except ConfigError as missing:
        found = fetch_artifact(resolve_uri(None, Path.cwd()), name, file)
        if found is None:
            raise missing from None
        return found
    if not (folder.path / file).exists():
        message = f"has no best configuration yet; stillhouse resume {folder.name}"
        raise ConfigError([Problem(folder.name, message)])
    return folder.path / file


def read_outcome(folder: RunFolder) -> Outcome:
    """What a run came to, from its study, its ``outcome.json`` and the library.

    Raises:
        ConfigError: the run's experiment is not valid any more.
    """
    experiment = load_experiment(folder.path / "experiment.yaml")
    library, told = Library(experiment.library), folder.read_json("outcome.json")
    study = Study(experiment, folder.path)
    trials = study.trials()
    study.close()
    keys = {key for trial in trials for key in trial.keys.values()} | set(told.get("stages", ()))
    records = present(library, keys)
    repeats = [
        Repeated(
            r["role"],
            tuple(r["seeds"]),
            tuple(with_measured(records[key], r["measured"]) for key in r["keys"]),
            r.get("group", ""),
        )
        for r in told.get("repeats", ())
        if all(key in records for key in r["keys"])
    ]
    return Outcome(
        name=folder.name,
        goals=experiment.goals,
        trials=tuple(trials),
        repeats=tuple(repeats),
        stages=records,
        labels={key: record.name for key, record in records.items()},
        made=frozenset(told.get("made", ())),
        reused=frozenset(told.get("reused", ())),
        importances=told.get("importances", {}),
        seconds=folder.read_json("state.json").get("seconds", 0.0),
        tests={role: tuple(values) for role, values in told.get("tests", {}).items()},
        factorial=experiment.factorial.plain() if experiment.factorial else {},
        variances=told.get("variances", {}),
    )


def present(library: Library, keys: Iterable[str]) -> dict[str, Record]:
    """The records among ``keys`` that the library has, by key."""
    found = {key: library.record(key) for key in sorted(keys)}
    return {key: record for key, record in found.items() if record is not None}


def write_outcome(experiment: Experiment, outcome: Outcome, folder: RunFolder) -> list[Path]:
    """Write ``best.yaml``, ``outcome.json``, the trial table, the pictures and the page.

    With ``run.repeats.of_each`` also the best of each value: ``best-parameters-67000.yaml``.
    """
    best = winner(outcome)
    text = best_yaml(experiment, outcome, best) if best else ""
    files = [folder.write("best.yaml", text)] if text else []
    for group, own in winners(outcome).items():
        if group:
            what, _, value = brief(group).partition(" ")
            file = f"best-{slug(what)}-{slug(value)}.yaml"
            files.append(folder.write(file, best_yaml(experiment, outcome, own)))
    folder.write_json("outcome.json", to_plain(outcome))
    opened = _opened(Library(experiment.library), outcome)
    return files + write_report(outcome, experiment.plain(), folder.path, text, opened)


def _opened(library: Library, outcome: Outcome) -> dict[str, Mapping[str, Tensor]]:
    """The tensors that the report shows; whoever goes without them lacks a picture."""
    made = {key for key, record in outcome.stages.items() if record.kind == "distil_data"}
    found = {}
    for key in sorted(made):
        with contextlib.suppress(KeyError, Damaged):
            found[key] = library.open(key).tensors
    return found


def best_yaml(experiment: Experiment, outcome: Outcome, best: Repeated) -> str:
    """The winning configuration as an experiment file, its evidence in the header."""
    figure = outcome.goals[0].figure
    values = next(t.values for t in outcome.trials if best.role == f"trial {t.number}")
    told = experiment.settled(values, f"{experiment.name}-best")
    seeds = f"{len(best.seeds)} seed{'s' * (len(best.seeds) != 1)}"
    header = [
        f"# The best of {len(outcome.trials)} trials of {outcome.name} ({best.name}).",
        f"# {figure} {best.mean(figure):.4f} +- {best.spread(figure):.4f} over {seeds}.",
        f"# Student {best.records[0].key[:12]}, "
        f"{best.records[0].figures.get('parameters', 0):,.0f} parameters.",
    ]
    return "\n".join(header) + "\n" + to_yaml(told)
