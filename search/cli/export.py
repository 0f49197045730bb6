"""``stillhouse export``: writes the winner as files for other programs."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import CorruptArtifact
from stillhouse.search.cli.options import JsonOption
from stillhouse.search.cli.outcome import missing_records_message
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.core.durable import read_json_mapping, write_atomically
from stillhouse.search.export.exporting import (
    ExportResult,
    check_formats,
    export_network,
    with_earlier_files,
)
from stillhouse.search.export.formats import FORMATS
from stillhouse.search.export.model_card import model_card
from stillhouse.search.report.core.roles import group_label
from stillhouse.search.results.outcome import Outcome, SeedRuns, winner, winners_by_group
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.best_files import best_yaml, slug
from stillhouse.search.runs.kept import run_library
from stillhouse.search.runs.result import RunResult, read_run
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message


def export(
    name: Annotated[str, typer.Argument(help="A run (name-3), or an experiment: its newest run.")],
    to: Annotated[
        list[str] | None, typer.Option("--to", help="pt2, onnx, safetensors; repeatable.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Folder; default: `exported` in the run folder.")
    ] = None,
    of: Annotated[
        str, typer.Option(help="A value of run.repeats.of_each: its winner, not the overall one.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Write the best student as files with a model card, and compare them with the original."""
    formats = list(dict.fromkeys(to or FORMATS.names()))
    check_formats(formats)
    folder = RunFolder.find(name)
    run = read_run(folder)
    if run.misses_trials:
        raise ConfigError([Problem(folder.name, missing_records_message(run))])
    seed_runs = _select_seed_runs(run.outcome, of)
    artifact = _open_student(folder, run, seed_runs)
    data = run.experiment.stage_graph(run.outcome.trial_values(seed_runs)).student.data
    target = into or folder.path / "exported"
    result = export_network(artifact, data, formats, target, run.experiment.name)
    result = with_earlier_files(result, _read_manifest(target, run.experiment.name))
    manifest = _write_card(target, run, seed_runs, artifact.record, result)
    if json:
        print_json(manifest)
    else:
        _print_result(result)
        console.print(f"model card  {manifest['card']}", markup=False)
    if to and result.refused:
        raise typer.Exit(1)


def _open_student(folder: RunFolder, run: RunResult, seed_runs: SeedRuns) -> Artifact:
    """The representative student of a configuration.

    Raises:
        ConfigError: it is damaged or deleted.
    """
    record = run.outcome.representative(seed_runs)[1]
    try:
        return run_library(folder, run.experiment).open_artifact(record.key)
    except (CorruptArtifact, KeyError):
        message = (
            f"its network is damaged or missing; stillhouse resume {folder.name} trains it again"
        )
        raise ConfigError([Problem(folder.name, message)]) from None


def _write_card(
    folder: Path, run: RunResult, seed_runs: SeedRuns, record: Record, result: ExportResult
) -> dict[str, Any]:
    """Write the model card and the manifest; returns the manifest."""
    name, outcome = run.experiment.name, run.outcome
    test_accuracies = outcome.test_accuracies.get(seed_runs.name, ())
    config_yaml = best_yaml(run.experiment, outcome, seed_runs)
    card_path = folder / f"{name}.md"
    write_atomically(
        card_path, model_card(outcome, seed_runs, record, result, test_accuracies, config_yaml)
    )
    manifest = {**result.plain(), "card": str(card_path), "test_accuracy": list(test_accuracies)}
    write_atomically(folder / f"{name}.json", dumps(manifest, indent=1))
    return manifest


def _read_manifest(folder: Path, name: str) -> dict[str, Any]:
    """The manifest of the previous export; empty if there is none."""
    try:
        return read_json_mapping(folder / f"{name}.json") or {}
    except OSError:
        return {}


def _select_seed_runs(outcome: Outcome, of: str) -> SeedRuns:
    """The winner, or the winner of one group.

    Raises:
        ConfigError: there is none.
    """
    winning = winner(outcome)
    if winning is None:
        message = f"has no best configuration yet; stillhouse resume {outcome.name}"
        raise ConfigError([Problem(outcome.name, message)])
    if not of:
        return winning
    groups = winners_by_group(outcome).items()
    by_value = {
        slug(group_label(group).partition(" ")[2]): seed_runs
        for group, seed_runs in groups
        if group
    }
    if slug(of) not in by_value:
        raise ConfigError([Problem("--of", unknown_message("value", of, by_value))])
    return by_value[slug(of)]


def _print_result(result: ExportResult) -> None:
    original = result.network
    rows = [("original", original.bytes, original.latency_ms, "", "")]
    rows += [
        (file.file, file.bytes, file.latency_ms, f"{file.difference:.1e}", f"{file.agreement:.2%}")
        for file in result.files
    ]
    columns = ("", "bytes", "ms an image", "logits differ by", "same class")
    print_table(columns, rows)
    console.print(
        f"compared on {result.images} images of the {result.split} split; latency of one "
        "image on one thread"
    )
    for message in result.refused.values():
        console.print(f"not written: {message}", markup=False)
