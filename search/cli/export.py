"""``stillhouse export``: the winner as files that others can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.show import Json, as_json, as_table, console
from search.exporting import Departure, check_formats, depart
from search.folder import RunFolder
from search.formats import FORMATS
from search.kept_run import library_of
from search.library.store import Damaged
from search.model_card import card
from search.outcome import Outcome, Repeated, winner, winners
from search.report.roles import brief
from search.results import best_yaml, read_run, slug
from search.tested import tested, why_untested
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
    record = best.best(outcome.goals[0])
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
    tests = outcome.tests.get(best.name, ())
    if not tests and not why_untested(data):
        tests = tested(best.records, data, library.open)
    recipe = best_yaml(experiment, outcome, best)
    about = place / f"{experiment.name}.md"
    about.write_text(card(outcome, best, record, departure, tests, recipe), encoding="utf-8")
    if json:
        as_json({**departure.plain(), "card": str(about), "test_accuracy": list(tests)})
        return
    _tell(departure)
    console.print(f"model card  {about}", markup=False)


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
