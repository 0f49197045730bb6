"""``stillhouse export``: the winner as files that others can run."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.record import Record
from stillhouse.search.artifacts.store import Damaged
from stillhouse.search.cli.outcome import lacks
from stillhouse.search.cli.show import Json, as_json, as_table, console
from stillhouse.search.core.durable import read_mapping, write_whole
from stillhouse.search.export.exporting import Departure, check_formats, depart, with_earlier
from stillhouse.search.export.formats import FORMATS
from stillhouse.search.export.model_card import card
from stillhouse.search.report.core.roles import brief
from stillhouse.search.results.outcome import Outcome, Repeated, winner, winners
from stillhouse.search.results.run_folder import RunFolder
from stillhouse.search.runs.best_files import best_yaml, slug
from stillhouse.search.runs.kept import library_of
from stillhouse.search.runs.result import RunResult, read_run
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown


def export(
    name: Annotated[str, typer.Argument(help="A run (name-3), or an experiment: its newest run.")],
    to: Annotated[
        list[str] | None, typer.Option("--to", help="pt2, onnx, safetensors; repeatable.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Folder; else `exported` in the run's own.")
    ] = None,
    of: Annotated[
        str, typer.Option(help="A value of run.repeats.of_each: its best, not the best of all.")
    ] = "",
    json: Json = False,
) -> None:
    """Write the best student as files, compared with the original, and a model card beside them."""
    formats = list(dict.fromkeys(to or FORMATS.names()))
    check_formats(formats)
    folder = RunFolder.find(name)
    run = read_run(folder)
    if run.lacks_trials:
        raise ConfigError([Problem(folder.name, lacks(run))])
    best = _chosen(run.outcome, of)
    winning = _opened(folder, run, best)
    data = run.experiment.recipe(run.outcome.values(best)).student.data
    place = into or folder.path / "exported"
    departure = depart(winning, data, formats, place, run.experiment.name)
    departure = with_earlier(departure, _manifest(place, run.experiment.name))
    told = _written(place, run, best, winning.record, departure)
    if json:
        as_json(told)
    else:
        _tell(departure)
        console.print(f"model card  {told['card']}", markup=False)
    if to and departure.refused:
        raise typer.Exit(1)


def _opened(folder: RunFolder, run: RunResult, best: Repeated) -> Artifact:
    """The student that stands for a configuration.

    Raises:
        ConfigError: it is damaged or gone.
    """
    record = run.outcome.representative(best)[1]
    try:
        return library_of(folder, run.experiment).open(record.key)
    except (Damaged, KeyError):
        message = f"its network is damaged or gone; stillhouse resume {folder.name} makes it again"
        raise ConfigError([Problem(folder.name, message)]) from None


def _written(
    place: Path, run: RunResult, best: Repeated, record: Record, departure: Departure
) -> dict[str, Any]:
    """Write the model card, and the manifest beside it, which is returned."""
    name, outcome = run.experiment.name, run.outcome
    tests = outcome.tests.get(best.name, ())
    recipe = best_yaml(run.experiment, outcome, best)
    about = place / f"{name}.md"
    write_whole(about, card(outcome, best, record, departure, tests, recipe))
    told = {**departure.plain(), "card": str(about), "test_accuracy": list(tests)}
    write_whole(place / f"{name}.json", dumps(told, indent=1))
    return told


def _manifest(place: Path, name: str) -> dict[str, Any]:
    """What the export before this one wrote of itself; nothing where there is none."""
    try:
        return read_mapping(place / f"{name}.json") or {}
    except OSError:
        return {}


def _chosen(outcome: Outcome, of: str) -> Repeated:
    """The winner, or that of one group.

    Raises:
        ConfigError: there is none.
    """
    best = winner(outcome)
    if best is None:
        message = f"has no best configuration yet; stillhouse resume {outcome.name}"
        raise ConfigError([Problem(outcome.name, message)])
    if not of:
        return best
    groups = winners(outcome).items()
    found = {slug(brief(group).partition(" ")[2]): own for group, own in groups if group}
    if slug(of) not in found:
        raise ConfigError([Problem("--of", unknown("value", of, found))])
    return found[slug(of)]


def _tell(departure: Departure) -> None:
    before = departure.network
    rows = [("as it was made", before.bytes, before.latency_ms, "", "")]
    rows += [
        (each.file, each.bytes, each.latency_ms, f"{each.difference:.1e}", f"{each.agreement:.2%}")
        for each in departure.files
    ]
    head = ("", "bytes", "ms an image", "logits differ by", "same class")
    as_table(head, rows)
    console.print(
        f"compared on {departure.images} images of the {departure.split} split; latency of one "
        "image on one thread"
    )
    for message in departure.refused.values():
        console.print(f"not written: {message}", markup=False)
