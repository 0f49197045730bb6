"""What a run left behind: read again, written out, and made the start of another."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from search.checks.ending import check_test_split
from search.document import Document, parse_document, read_document, with_end
from search.experiment import Experiment, to_yaml
from search.folder import RunFolder
from search.library.record import Record
from search.library.store import Damaged, Library
from search.loading import load_experiment
from search.outcome import Outcome, Repeated, Trial, to_plain, winner, winners, with_measured
from search.rebuilt import written_outcome
from search.report import write_report
from search.report.headline import breaches
from search.report.roles import brief
from search.run_files import find_file
from search.settings import Repeats
from search.settle import first_seed
from search.study_reading import StudyReader
from spaces.problem import ConfigError, Problem, unknown

log = logging.getLogger(__name__)


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
            test split with known labels.
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
        return _read(_best_of(name, of))
    found = find_file(name, "best.yaml", changes.get("tracking"))
    told = _read(found.path)
    return {**told, "tracking": found.tracking} if found.tracking else told


def _read(file: Path) -> dict[str, Any]:
    """An experiment as it is written, with its name, data and stages.

    Raises:
        ConfigError: it lacks one of them.
    """
    told = (read_best if file.name.startswith("best") else read_document)(file).data
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


def read_outcome(folder: RunFolder) -> Outcome:
    """What a run came to, from its study, its ``outcome.json`` and the library.

    Raises:
        ConfigError: the run's experiment is not valid any more.
    """
    experiment = load_experiment(folder.path / "experiment.yaml")
    library = Library(experiment.library)
    study = StudyReader(experiment, folder.path)
    trials, importances = study.trials(), study.importances()
    study.close()
    told = written_outcome(experiment, folder, library, trials, importances)
    keys = {key for trial in trials for key in trial.keys.values()} | set(told.get("stages", ()))
    records = present(library, keys)
    repeats = [
        Repeated(
            r["role"],
            tuple(r["seeds"]),
            tuple(with_measured(records[key], r["measured"]) for key in r["keys"]),
            r.get("group", ""),
            tuple(r.get("also", ())),
        )
        for r in told.get("repeats", ())
        if all(key in records for key in r["keys"]) and _is_known(r["role"], trials)
    ]
    return Outcome(
        name=folder.name,
        goals=experiment.goals,
        limits=experiment.limits,
        trials=tuple(trials),
        repeats=tuple(repeats),
        stages=records,
        labels={key: record.name for key, record in records.items()},
        made=frozenset(told.get("made", ())),
        reused=frozenset(told.get("reused", ())),
        importances=told.get("importances", {}),
        seconds=folder.seconds_so_far(),
        tests={role: tuple(values) for role, values in told.get("tests", {}).items()},
        factorial=experiment.factorial.plain() if experiment.factorial else {},
        variances=told.get("variances", {}),
    )


def _is_known(role: str, trials: Sequence[Trial]) -> bool:
    """Whether what was repeated is still there: a journal may have lost its last trials."""
    number = role.removeprefix("trial ")
    return number == role or any(str(trial.number) == number for trial in trials)


def present(library: Library, keys: Iterable[str]) -> dict[str, Record]:
    """The records among ``keys`` that the library has, by key."""
    found = {key: library.record(key) for key in sorted(keys)}
    return {key: record for key, record in found.items() if record is not None}


def write_outcome(experiment: Experiment, outcome: Outcome, folder: RunFolder) -> list[Path]:
    """Write ``best.yaml``, ``outcome.json``, the trial table, the pictures and the page.

    With ``run.repeats.of_each`` also the best of each value: ``best-parameters-67000.yaml``.
    """
    files = write_settled(experiment, outcome, folder)
    return files + write_pages(experiment, outcome, folder)


def write_settled(experiment: Experiment, outcome: Outcome, folder: RunFolder) -> list[Path]:
    """Write ``outcome.json``, and then the best configurations, whose files are returned."""
    texts = dict(_best_files(experiment, outcome))
    _drop_stale(folder, texts)
    folder.write_json("outcome.json", to_plain(outcome))
    return [folder.write_yaml(name, text) for name, text in texts.items()]


def write_pages(experiment: Experiment, outcome: Outcome, folder: RunFolder) -> list[Path]:
    """Write the trial table, the pictures and the page."""
    best = dict(_best_files(experiment, outcome)).get("best.yaml", "")
    opened = _opened(Library(experiment.library), outcome)
    return write_report(outcome, experiment.plain(), folder.path, best, opened)


def _best_files(experiment: Experiment, outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Name and text of the files of the best configurations."""
    if best := winner(outcome):
        yield "best.yaml", best_yaml(experiment, outcome, best)
    for group, own in winners(outcome).items():
        if group:
            what, _, value = brief(group).partition(" ")
            yield f"best-{slug(what)}-{slug(value)}.yaml", best_yaml(experiment, outcome, own)


def _drop_stale(folder: RunFolder, texts: Mapping[str, str]) -> None:
    """Remove best configurations that a new outcome replaces, before it is written.

    If power is lost in between, none is there, and readers rebuild it from ``outcome.json``.
    """
    for file in folder.path.glob("best*.yaml"):
        text = texts.get(file.name)
        if text is None or file.read_bytes() != with_end(text).encode():
            file.unlink()


def read_best(file: Path) -> Document:
    """The best configuration in a run's file; from ``outcome.json`` if it is missing or damaged.

    Raises:
        ConfigError: neither tells of it.
    """
    with contextlib.suppress(ConfigError):
        found = read_document(file)
        if isinstance(found.data, dict):
            return found
    return _rebuilt_best(file)


def _rebuilt_best(file: Path) -> Document:
    folder = RunFolder(file.parent)
    texts: Mapping[str, str] = {}
    if (folder.path / "outcome.json").exists():
        experiment = load_experiment(folder.path / "experiment.yaml")
        texts = dict(_best_files(experiment, read_outcome(folder)))
    if file.name not in texts:
        message = f"is missing or damaged; stillhouse resume {folder.name} makes it again"
        raise ConfigError([Problem(str(file), message)])
    log.warning("%s is missing or damaged; outcome.json says the same", file)
    return parse_document(texts[file.name], str(file))


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
    told = experiment.settled(values, f"{experiment.name}-best", first_seed(experiment))
    seed, student = outcome.representative(best)
    header = [
        f"The best of {len(outcome.trials)} trials of {outcome.name} ({best.name}).",
        f"{figure} {best.mean(figure):.4f} +- {best.spread(figure):.4f} over {_seeds(best)}.",
        f"Student {student.key[:12]} (seed {seed}, the nearest to the mean), "
        f"{student.figures.get('parameters', 0):,.0f} parameters.",
        *breaches(outcome, best),
    ]
    return "".join(f"# {line}\n" for line in header) + to_yaml(told)


def _seeds(best: Repeated) -> str:
    named = ", ".join(map(str, best.seeds))
    return f"{len(best.seeds)} seed{'s' * (len(best.seeds) != 1)} ({named})"
