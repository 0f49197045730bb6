"""Reads the outcome of a run from its folder, its study and its library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Library
from stillhouse.search.evaluation.final_comparison import make_outcome
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.results.outcome import Outcome, SeedRuns, TrialResult, with_device_metrics
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.kept import (
    has_artifacts,
    library_remedy,
    load_run,
    no_artifacts_error,
    run_library,
)
from stillhouse.search.runs.rebuilt import OUTCOME_FILE, reconstruct_outcome
from stillhouse.search.tuning.study_reading import StudyReader
from stillhouse.spaces.config.problems import ConfigError, Problem


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run, from the records that its library still has.

    ``written_outcome`` is the content of ``outcome.json``. ``missing_repeats`` names the repeated
    configurations without records.
    """

    experiment: Experiment
    outcome: Outcome
    written_outcome: Mapping[str, Any]
    missing_repeats: tuple[str, ...]

    @property
    def misses_trials(self) -> bool:
        """Whether a trial is missing, so that the best configuration is unknown."""
        return any(name.rpartition(": ")[2].startswith("trial ") for name in self.missing_repeats)


def read_outcome(folder: RunFolder) -> Outcome:
    """The outcome of a run, from its study, its ``outcome.json`` and the library.

    Raises:
        ConfigError: as :func:`read_run`.
    """
    return read_run(folder).outcome


def read_run(folder: RunFolder) -> RunResult:
    """The outcome with its experiment, the written file, and the missing repetitions.

    Raises:
        ConfigError: the run's experiment is no longer valid, its library has none of its
            artifacts, or its study has lost its trials.
    """
    experiment = load_run(folder, only_read=True)
    trials, importances = _read_trials(experiment, folder)
    written = folder.read_json(OUTCOME_FILE)
    if not written and (folder.path / OUTCOME_FILE).exists():
        library = run_library(folder, experiment)
        written = reconstruct_outcome(experiment, folder, library, trials, importances)
    records = _read_records(experiment, folder, trials, written)
    repeats, missing = split_repeats(written, records, trials)
    outcome = make_outcome(
        experiment,
        folder.name,
        trials,
        records,
        seed_runs=repeats,
        importances=written.get("importances", {}),
        seconds=folder.seconds_so_far(),
        made_keys=written.get("made", ()),
        reused_keys=written.get("reused", ()),
        variances=written.get("variances", {}),
        test_accuracies={role: tuple(values) for role, values in written.get("tests", {}).items()},
    )
    return RunResult(experiment, outcome, written, missing)


def _read_trials(
    experiment: Experiment, folder: RunFolder
) -> tuple[list[TrialResult], dict[str, float]]:
    """The trials of the run's study, and the importance of each searched path.

    Raises:
        ConfigError: the study is missing, or is empty although the run has ended.
    """
    has_outcome = (folder.path / OUTCOME_FILE).exists()
    journal = folder.path / "study.journal"
    if has_outcome and experiment.study is None and not journal.exists():
        raise ConfigError([Problem(str(journal), "is missing, and with it the run's trials")])
    study = StudyReader(experiment, folder.path)
    try:
        trials, importances = study.trials(), study.importances()
    finally:
        study.close()
    if has_outcome and not trials:
        location = str(journal) if experiment.study is None else "study"
        raise ConfigError([Problem(location, "has no trials of this run any more")])
    return trials, importances


def _read_records(
    experiment: Experiment,
    folder: RunFolder,
    trials: Sequence[TrialResult],
    written: Mapping[str, Any],
) -> dict[str, Record]:
    """The records of the run's stages that its library still has.

    Raises:
        ConfigError: the library has none of them.
    """
    finished_keys = {key for t in trials if t.state == "finished" for key in t.stage_keys.values()}
    needed = finished_keys | set(written.get("stages", ()))
    if not (needed or has_artifacts(folder)):
        return {}  # it was stopped before its first artifact
    library = run_library(folder, experiment)
    records = existing_records(
        library, needed | {key for trial in trials for key in trial.stage_keys.values()}
    )
    if needed and not needed & records.keys():
        raise no_artifacts_error(library.uri, folder.name, library_remedy(folder))
    return records


def split_repeats(
    written: Mapping[str, Any], records: Mapping[str, Record], trials: Sequence[TrialResult]
) -> tuple[tuple[SeedRuns, ...], tuple[str, ...]]:
    """The repeated configurations with all their records, and the names of the others.

    A journal may have lost its last trials; their repetitions are left out.
    """
    complete, missing = [], []
    roles = {f"trial {trial.number}" for trial in trials}
    for entry in written.get("repeats", ()):
        role, group = entry["role"], entry.get("group", "")
        if role.startswith("trial ") and role not in roles:
            continue
        if not all(key in records for key in entry["keys"]):
            missing.append(SeedRuns(role, (), (), group).name)
            continue
        measured_records = tuple(
            with_device_metrics(records[key], entry["measured"]) for key in entry["keys"]
        )
        also = tuple(entry.get("also", ()))
        complete.append(SeedRuns(role, tuple(entry["seeds"]), measured_records, group, also))
    return tuple(complete), tuple(missing)


def existing_records(library: Library, keys: Iterable[str]) -> dict[str, Record]:
    """The records among ``keys`` that the library has, by key."""
    record_by_key = {key: library.record(key) for key in sorted(keys)}
    return {key: record for key, record in record_by_key.items() if record is not None}
