"""What a run came to, read from its folder, its study and its library. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import Outcome, Repeated, Trial, with_measured
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.kept import has_made, library_of, load_run, remedy_in, without_artifacts
from stillhouse.search.runs.rebuilt import FILE, rebuilt_outcome
from stillhouse.search.tuning.study_reading import StudyReader
from stillhouse.spaces.config.problems import ConfigError, Problem


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
        return any(name.rpartition(": ")[2].startswith("trial ") for name in self.lacking)


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
    experiment = load_run(folder, only_read=True)
    trials, importances = _trials(experiment, folder)
    written = folder.read_json(FILE)
    if not written and (folder.path / FILE).exists():
        library = library_of(folder, experiment)
        written = rebuilt_outcome(experiment, folder, library, trials, importances)
    records = _records(experiment, folder, trials, written)
    whole, lacking = repeats_of(written, records, trials)
    outcome = Outcome(
        name=folder.name,
        goals=experiment.goals,
        limits=experiment.limits,
        trials=tuple(trials),
        repeats=whole,
        stages=records,
        labels={key: record.name for key, record in records.items()},
        made=frozenset(written.get("made", ())),
        reused=frozenset(written.get("reused", ())),
        importances=written.get("importances", {}),
        seconds=folder.seconds_so_far(),
        tests={role: tuple(values) for role, values in written.get("tests", {}).items()},
        factorial=experiment.factorial.plain() if experiment.factorial else {},
        variances=written.get("variances", {}),
    )
    return RunResult(experiment, outcome, written, lacking)


def _trials(experiment: Experiment, folder: RunFolder) -> tuple[list[Trial], dict[str, float]]:
    """The trials of the run's study, and what each searched value is worth.

    Raises:
        ConfigError: the study is gone, or empty though the run has ended before.
    """
    ended = (folder.path / FILE).exists()
    journal = folder.path / "study.journal"
    if ended and experiment.study is None and not journal.exists():
        raise ConfigError([Problem(str(journal), "is missing, and with it the run's trials")])
    study = StudyReader(experiment, folder.path)
    try:
        trials, importances = study.trials(), study.importances()
    finally:
        study.close()
    if ended and not trials:
        where = str(journal) if experiment.study is None else "study"
        raise ConfigError([Problem(where, "has no trials of this run any more")])
    return trials, importances


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


def repeats_of(
    written: Mapping[str, Any], records: Mapping[str, Record], trials: Sequence[Trial]
) -> tuple[tuple[Repeated, ...], tuple[str, ...]]:
    """The repeated configurations whose records are all there, and the names of the others.

    A journal may have lost its last trials; what was repeated of those is left out.
    """
    whole, lacking = [], []
    known = {f"trial {trial.number}" for trial in trials}
    for told in written.get("repeats", ()):
        role, group = told["role"], told.get("group", "")
        if role.startswith("trial ") and role not in known:
            continue
        if not all(key in records for key in told["keys"]):
            lacking.append(Repeated(role, (), (), group).name)
            continue
        found = tuple(with_measured(records[key], told["measured"]) for key in told["keys"])
        also = tuple(told.get("also", ()))
        whole.append(Repeated(role, tuple(told["seeds"]), found, group, also))
    return tuple(whole), tuple(lacking)


def present(library: Library, keys: Iterable[str]) -> dict[str, Record]:
    """The records among ``keys`` that the library has, by key."""
    found = {key: library.record(key) for key in sorted(keys)}
    return {key: record for key, record in found.items() if record is not None}
