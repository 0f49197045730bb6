"""What a run left behind: read again, written out, and made the start of another."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from search.document import read_document
from search.experiment import Experiment, to_yaml
from search.folder import RunFolder
from search.kept_run import (
    as_launched,
    has_made,
    library_of,
    load_run,
    open_library,
    remedy_in,
    without_artifacts,
)
from search.library.record import Record
from search.library.store import Damaged, Library
from search.loading import load_experiment
from search.outcome import Outcome, Repeated, Trial, to_plain, winner, winners, with_measured
from search.places import is_relative
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
        ConfigError: no such run, it has no winner yet, or the changes do not fit.
    """
    file = _best_of(name, of) if of else _file_of(name, "best.yaml")
    told = _read(file)
    _check_library(file, told, changes)
    repeats = {"run.repeats.top": 1, "run.repeats.seeds": seeds, "run.trials": 1}
    laid_over = {**repeats, **({"run.register_as": register} if register else {}), **changes}
    return load_experiment({**told, "name": f"{told['name']}-again"}, laid_over)


def onwards(name: str, changes: Mapping[str, Any], trials: int, of: str = "") -> Experiment:
    """The search of a run once more, as of other data: from its winner and the neighbours of that.

    A quarter of the ``trials`` are neighbours, each with one value of the winner's changed; from
    there on the sampler proposes, as in the run. ``changes`` and ``of`` as for :func:`again`.

    Raises:
        ConfigError: no such run, it has no winner or searched nothing, or the changes do not fit.
    """
    file = _best_of(name, of) if of else _file_of(name, "best.yaml")
    best, told = _read(file), _read(_file_of(name, "experiment.yaml"))
    _check_library(file, told, changes)
    if not told.get("search"):
        message = "searched nothing; leave --trials out to make its recipe again"
        raise ConfigError([Problem(name, message)])
    start = {"run.start": "file", "run.neighbours": trials // 4, "run.trials": trials}
    won = {part: best[part] for part in ("data", "stages")}
    further = {**told, **won, "name": f"{told['name']}-onwards"}
    return load_experiment(further, {**start, **changes})


def _read(file: Path) -> dict[str, Any]:
    """An experiment as it is written, with its name, data and stages.

    Where the file lies in a run's folder, its places mean what they meant at the launch.

    Raises:
        ConfigError: it lacks one of them.
    """
    told = read_document(file).data
    found = told if isinstance(told, dict) else {}
    for part, kind in {"name": str, "data": dict, "stages": dict}.items():
        if not isinstance(found.get(part), kind):
            raise ConfigError([Problem(str(file), f"is no experiment: it has no {part}")])
    folder = _folder_of(file)
    return as_launched(folder, found) if folder else found


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


@dataclass(frozen=True)
class RunResult:
    """What a run came to, as far as its library still has it.

    ``written`` is what ``outcome.json`` said when it was read. ``lacking`` names the repeated
    configurations that stand there, and whose records the library has no longer.
    """

    experiment: Experiment
    outcome: Outcome
    written: Mapping[str, Any]
    lacking: tuple[str, ...]

    @property
    def lacks_trials(self) -> bool:
        """Whether a trial is among them, so that the best of all cannot be told."""
        lacking = {name for name in self.lacking if name.rpartition(": ")[2].startswith("trial ")}
        return bool(lacking)


def read_outcome(folder: RunFolder) -> Outcome:
    """What a run came to, from its study, its ``outcome.json`` and the library.

    Raises:
        ConfigError: as :func:`read_run`.
    """
    return read_run(folder).outcome


def read_run(folder: RunFolder) -> RunResult:
    """The same with what was asked, what was written, and what the library lacks.

    Raises:
        ConfigError: the run's experiment is not valid any more, its library has none of its
            artifacts, or its study has lost its trials.
    """
    experiment = load_run(folder)
    written = folder.read_json("outcome.json")
    trials = _trials(experiment, folder, bool(written))
    records = _records(experiment, folder, trials, written)
    whole, lacking = _repeats(written, records)
    outcome = Outcome(
        name=folder.name,
        goals=experiment.goals,
        trials=tuple(trials),
        repeats=whole,
        stages=records,
        labels={key: record.name for key, record in records.items()},
        made=frozenset(written.get("made", ())),
        reused=frozenset(written.get("reused", ())),
        importances=written.get("importances", {}),
        seconds=folder.read_json("state.json").get("seconds", written.get("seconds", 0.0)),
        tests={role: tuple(values) for role, values in written.get("tests", {}).items()},
        factorial=experiment.factorial.plain() if experiment.factorial else {},
        variances=written.get("variances", {}),
    )
    return RunResult(experiment, outcome, written, lacking)


def _records(
    experiment: Experiment, folder: RunFolder, trials: Sequence[Trial], written: Mapping[str, Any]
) -> dict[str, Record]:
    """The records of all that the run made and its library still has.

    Raises:
        ConfigError: the library has none of them.
    """
    made = {key for t in trials if t.state == "finished" for key in t.keys.values()}
    needed = made | set(written.get("stages", ()))
    if not (needed or has_made(folder)):
        return {}  # it was stopped before its library had anything
    library = library_of(folder, experiment)
    records = present(library, needed | {key for trial in trials for key in trial.keys.values()})
    if needed and not needed & records.keys():
        raise without_artifacts(library.uri, folder.name, remedy_in(folder))
    return records


def _trials(experiment: Experiment, folder: RunFolder, ended: bool) -> list[Trial]:
    """The trials of the run's study, which is not made by looking.

    Raises:
        ConfigError: it is gone, or empty though the run has ``ended`` before.
    """
    journal = folder.path / "study.journal"
    if experiment.study is None and not journal.exists():
        if not ended:
            return []
        raise ConfigError([Problem(str(journal), "is missing, and with it the run's trials")])
    study = Study(experiment, folder.path)
    try:
        trials = study.trials()
    finally:
        study.close()
    if ended and not trials:
        where = str(journal) if experiment.study is None else "study"
        raise ConfigError([Problem(where, "has no trials of this run any more")])
    return trials


def _repeats(
    written: Mapping[str, Any], records: Mapping[str, Record]
) -> tuple[tuple[Repeated, ...], tuple[str, ...]]:
    """The repeated configurations whose records are all there, and the names of the others."""
    whole, lacking = [], []
    for told in written.get("repeats", ()):
        group = told.get("group", "")
        if not all(key in records for key in told["keys"]):
            lacking.append(Repeated(told["role"], (), (), group).name)
            continue
        found = tuple(with_measured(records[key], told["measured"]) for key in told["keys"])
        whole.append(Repeated(told["role"], tuple(told["seeds"]), found, group))
    return tuple(whole), tuple(lacking)


def present(library: Library, keys: Iterable[str]) -> dict[str, Record]:
    """The records among ``keys`` that the library has, by key."""
    found = {key: library.record(key) for key in sorted(keys)}
    return {key: record for key, record in found.items() if record is not None}


def write_outcome(
    experiment: Experiment,
    outcome: Outcome,
    folder: RunFolder,
    written: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``outcome.json``, ``best.yaml``, the trial table, the pictures and the page.

    With ``run.repeats.of_each`` also the best of each value: ``best-parameters-67000.yaml``.

    Args:
        written: what ``outcome.json`` said, where the outcome was read from it. What it said of
            records that the library lacks stays there, and then so does ``best.yaml``.
    """
    files = write_settled(experiment, outcome, folder, written)
    return files + write_pages(experiment, outcome, folder)


def write_settled(
    experiment: Experiment,
    outcome: Outcome,
    folder: RunFolder,
    written: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``outcome.json``, and then the best configurations, whose files are returned."""
    told = to_plain(outcome)
    lacking: tuple[str, ...] = ()
    if written:
        lacking = _repeats(written, outcome.stages)[1]
        told = _with_written(told, written)
    folder.write_json("outcome.json", told)
    if lacking:
        return sorted(folder.path.glob("best*.yaml"))
    return [folder.write(name, text) for name, text in _best_files(experiment, outcome)]


def write_pages(experiment: Experiment, outcome: Outcome, folder: RunFolder) -> list[Path]:
    """Write the trial table, the pictures and the page."""
    best = folder.path / "best.yaml"
    text = best.read_text(encoding="utf-8") if best.exists() else ""
    opened = _opened(Library(experiment.library), outcome)
    return write_report(outcome, experiment.plain(), folder.path, text, opened)


def _best_files(experiment: Experiment, outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Name and text of the files of the best configurations."""
    if best := winner(outcome):
        yield "best.yaml", best_yaml(experiment, outcome, best)
    for group, own in winners(outcome).items():
        if group:
            what, _, value = brief(group).partition(" ")
            yield f"best-{slug(what)}-{slug(value)}.yaml", best_yaml(experiment, outcome, own)


def _with_written(told: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """``outcome.json`` anew, with all that stood there before."""
    now = {(r["role"], r.get("group", "")): r for r in told["repeats"]}
    repeats = [now.get((r["role"], r.get("group", "")), r) for r in written.get("repeats", ())]
    stages = sorted({*told["stages"], *written.get("stages", ())})
    return {**written, **told, "repeats": repeats, "stages": stages}


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
        "# Places are absolute: on another machine, change library, tracking, data.root, weights.",
    ]
    return "\n".join(header) + "\n" + to_yaml(told)
