"""``stillhouse export``: the winner as files that others can run."""

from __future__ import annotations

from json import dumps, loads
from pathlib import Path
from typing import Annotated, Any

import typer

from search.best_files import best_yaml, slug
from search.cli.show import Json, as_json, as_table, console
from search.durable import write_whole
from search.exporting import Departure, check_formats, depart, with_earlier
from search.folder import RunFolder
from search.formats import FORMATS
from search.kept_run import library_of
from search.library.store import Damaged
from search.model_card import card
from search.outcome import Outcome, Repeated, winner, winners
from search.report.roles import brief
from search.run_result import read_run
from spaces.problem import ConfigError, Problem, unknown


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
    experiment, outcome = run.experiment, run.outcome
    if run.lacks_trials:
        message = f"its library has no longer all records of {', '.join(run.lacking)}"
        remedy = f"stillhouse resume {folder.name} makes them again"
        raise ConfigError([Problem(folder.name, f"{message}; {remedy}")])
    best = _chosen(outcome, of)
    record = outcome.representative(best)[1]
    number = int(best.role.removeprefix("trial "))
    values = next(trial.values for trial in outcome.trials if trial.number == number)
    data = experiment.recipe(values).student.data
    library = library_of(folder, experiment)
    place = into or folder.path / "exported"
    try:
        winning = library.open(record.key)
    except (Damaged, KeyError):
        message = f"its network is damaged or gone; stillhouse resume {folder.name} makes it again"
        raise ConfigError([Problem(folder.name, message)]) from None
    departure = depart(winning, data, formats, place, experiment.name)
    departure = with_earlier(departure, _manifest(place, experiment.name))
    tests = outcome.tests.get(best.name, ())
    recipe = best_yaml(experiment, outcome, best)
    about = place / f"{experiment.name}.md"
    write_whole(about, card(outcome, best, record, departure, tests, recipe))
    told = {**departure.plain(), "card": str(about), "test_accuracy": list(tests)}
    write_whole(place / f"{experiment.name}.json", dumps(told, indent=1))
    if json:
        as_json(told)
    else:
        _tell(departure)
        console.print(f"model card  {about}", markup=False)
    if to and departure.refused:
        raise typer.Exit(1)


def _manifest(place: Path, name: str) -> dict[str, Any]:
    """What the export before this one wrote of itself; nothing where there is none."""
    try:
        found = loads((place / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
