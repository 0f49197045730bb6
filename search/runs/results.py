"""What a search came to, written into its run's folder, and its best configuration read again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stillhouse.search.artifacts.store import Damaged, Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.yaml_source import (
    Document,
    parse_document,
    read_document,
    with_end,
    without_end,
)
from stillhouse.search.report import write_report
from stillhouse.search.results.outcome import Outcome, to_plain
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.best_files import best_files, file_name
from stillhouse.search.runs.result import read_run, repeats_of
from stillhouse.spaces.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)


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
    texts = dict(best_files(experiment, outcome))
    lacking = written and repeats_of(written, outcome.stages, outcome.trials)[1]
    if written:
        told = _with_written(told, written)
    if not lacking:
        _drop_stale(folder, texts)
    folder.write_json("outcome.json", told)
    if lacking:
        return [path for path in _own_files(folder, texts) if path.exists()]
    return [folder.write_yaml(name, text) for name, text in texts.items()]


def write_pages(experiment: Experiment, outcome: Outcome, folder: RunFolder) -> list[Path]:
    """Write the trial table, the pictures and the page."""
    best = folder.path / "best.yaml"
    text = without_end(best.read_text(encoding="utf-8")) if best.exists() else ""
    opened = _opened(Library(experiment.library), outcome)
    return write_report(outcome, experiment.plain(), folder.path, text, opened)


def _with_written(told: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """``outcome.json`` anew, with all that stood there before."""
    now = {(r["role"], r.get("group", "")): r for r in told["repeats"]}
    repeats = [now.get((r["role"], r.get("group", "")), r) for r in written.get("repeats", ())]
    stages = sorted({*told["stages"], *written.get("stages", ())})
    return {**written, **told, "repeats": repeats, "stages": stages}


def _drop_stale(folder: RunFolder, texts: Mapping[str, str]) -> None:
    """Remove best configurations that a new outcome replaces, before it is written.

    If power is lost in between, none is there, and readers rebuild it from ``outcome.json``.
    """
    for file in _own_files(folder, texts):
        text = texts.get(file.name)
        if file.exists() and (text is None or file.read_bytes() != with_end(text).encode()):
            file.unlink()


def _own_files(folder: RunFolder, texts: Mapping[str, str]) -> list[Path]:
    """Where ``texts`` go, and where the last outcome's best ones went; other files are a user's."""
    earlier = folder.read_json("outcome.json").get("repeats", ())
    names = {file_name(""), *texts, *(file_name(r.get("group", "")) for r in earlier)}
    return [folder.path / name for name in sorted(names)]


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
        run = read_run(folder)
        texts = dict(best_files(run.experiment, run.outcome)) if not run.lacks_trials else {}
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
