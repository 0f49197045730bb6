"""Writes the outcome of a search into its run folder, and reads its best configuration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stillhouse.search.artifacts.store import CorruptArtifact, Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.yaml_source import (
    Document,
    parse_document,
    read_document,
    with_end_mark,
    without_end_mark,
)
from stillhouse.search.report import write_report
from stillhouse.search.results.outcome import Outcome, to_plain
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.best_files import best_file_name, best_files
from stillhouse.search.runs.result import read_run, split_repeats
from stillhouse.spaces.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)


def write_outcome(
    experiment: Experiment,
    outcome: Outcome,
    folder: RunFolder,
    previous: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``outcome.json``, ``best.yaml``, the trial table, the pictures and the page.

    With ``run.repeats.of_each`` each value also has a file like ``best-parameters-67000.yaml``.

    Args:
        previous: the present content of ``outcome.json``, if the outcome was read from it. Its
            entries without records are kept, and then ``best.yaml`` is kept too.
    """
    files = write_outcome_data(experiment, outcome, folder, previous)
    return files + write_pages(experiment, outcome, folder)


def write_outcome_data(
    experiment: Experiment,
    outcome: Outcome,
    folder: RunFolder,
    previous: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write ``outcome.json``, then the best configurations; returns the paths of the latter."""
    data = to_plain(outcome)
    best_texts = dict(best_files(experiment, outcome))
    missing_records = previous and split_repeats(previous, outcome.records, outcome.trials)[1]
    if previous:
        data = _merge_previous(data, previous)
    if not missing_records:
        _remove_stale_best(folder, best_texts)
    folder.write_json("outcome.json", data)
    if missing_records:
        return [path for path in _best_paths(folder, best_texts) if path.exists()]
    return [folder.write_yaml(name, text) for name, text in best_texts.items()]


def write_pages(experiment: Experiment, outcome: Outcome, folder: RunFolder) -> list[Path]:
    """Write the trial table, the pictures and the page."""
    best_path = folder.path / "best.yaml"
    text = without_end_mark(best_path.read_text(encoding="utf-8")) if best_path.exists() else ""
    tensors = _open_distilled_data(Library(experiment.library), outcome)
    return write_report(outcome, experiment.plain(), folder.path, text, tensors)


def _merge_previous(data: Mapping[str, Any], previous: Mapping[str, Any]) -> dict[str, Any]:
    """The new ``outcome.json``, with the previous entries that it lacks."""
    current = {(r["role"], r.get("group", "")): r for r in data["repeats"]}
    merged_runs = [
        current.get((r["role"], r.get("group", "")), r) for r in previous.get("repeats", ())
    ]
    stages = sorted({*data["stages"], *previous.get("stages", ())})
    return {**previous, **data, "repeats": merged_runs, "stages": stages}


def _remove_stale_best(folder: RunFolder, best_texts: Mapping[str, str]) -> None:
    """Remove best configurations that a new outcome replaces, before it is written.

    After a power loss in between, readers rebuild them from ``outcome.json``.
    """
    for file in _best_paths(folder, best_texts):
        text = best_texts.get(file.name)
        if file.exists() and (text is None or file.read_bytes() != with_end_mark(text).encode()):
            file.unlink()


def _best_paths(folder: RunFolder, best_texts: Mapping[str, str]) -> list[Path]:
    """The paths of the present and previous best configurations; other files are the user's."""
    previous_runs = folder.read_json("outcome.json").get("repeats", ())
    names = {
        best_file_name(""),
        *best_texts,
        *(best_file_name(r.get("group", "")) for r in previous_runs),
    }
    return [folder.path / name for name in sorted(names)]


def read_best(file: Path) -> Document:
    """The best configuration in a run's file; from ``outcome.json`` if it is missing or damaged.

    Raises:
        ConfigError: neither file has it.
    """
    with contextlib.suppress(ConfigError):
        document = read_document(file)
        if isinstance(document.data, dict):
            return document
    return _best_from_outcome(file)


def _best_from_outcome(file: Path) -> Document:
    folder = RunFolder(file.parent)
    texts: Mapping[str, str] = {}
    if (folder.path / "outcome.json").exists():
        run = read_run(folder)
        texts = dict(best_files(run.experiment, run.outcome)) if not run.misses_trials else {}
    if file.name not in texts:
        message = f"is missing or damaged; stillhouse resume {folder.name} writes it again"
        raise ConfigError([Problem(str(file), message)])
    log.warning("%s is missing or damaged; its content is read from outcome.json", file)
    return parse_document(texts[file.name], str(file))


def _open_distilled_data(library: Library, outcome: Outcome) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of distilled data for the report; missing ones only omit a picture."""
    keys = {key for key, record in outcome.records.items() if record.kind == "distil_data"}
    tensors = {}
    for key in sorted(keys):
        with contextlib.suppress(KeyError, CorruptArtifact):
            tensors[key] = library.open_artifact(key).tensors
    return tensors
