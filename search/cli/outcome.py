"""What a search came to, as the command line shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import typer

from stillhouse.search.artifacts.places import absolute
from stillhouse.search.cli.show import as_json, as_table, console
from stillhouse.search.core.addresses import shown
from stillhouse.search.core.formatting import duration, interval
from stillhouse.search.driver.launch import how_to_go_on
from stillhouse.search.driver.launched import Launched, SearchFailed
from stillhouse.search.evaluation.factorial import interactions
from stillhouse.search.monitoring.mlflow import count_refused
from stillhouse.search.report.core.headline import coinciding, difference, limits, screening
from stillhouse.search.report.core.roles import ROLES, Group, groups
from stillhouse.search.results.outcome import Outcome, to_plain, winner
from stillhouse.search.results.statistics import ranking, seconds_saved
from stillhouse.search.runs.kept import Stand
from stillhouse.search.runs.result import RunResult


def conclude(launched: Launched, json: bool) -> None:
    """Say what came out, where it lies, and what to type next."""
    name, folder = launched.folder.name, launched.folder.path
    if json:
        told = {**to_plain(launched.outcome), "state": launched.state, "folder": str(folder)}
        as_json({**told, "reason": launched.reason, "notes": list(launched.notes)})
    elif launched.state == "interrupted":
        console.print(how_to_go_on(name), markup=False)
    else:
        _tell_end(launched)
    if launched.unsent and not json:
        console.print(
            f"{launched.unsent} entries could not be sent to {shown(launched.tracking)}; they are "
            f"kept in {folder} and sent by the next resume, report or ui"
        )
    if (refused := count_refused(folder / "tracking")) and not json:
        path = folder / "tracking" / "refused.jsonl"
        console.print(f"MLflow refused {refused} entries; {path} has them with the reasons")
    if launched.reason:
        typer.echo(f"error: {SearchFailed(launched)}", err=True)
    if launched.state == "interrupted":
        raise typer.Exit(130)
    if launched.state == "failed" or winner(launched.outcome) is None:
        raise typer.Exit(1)


def _tell_end(launched: Launched) -> None:
    """The headline of a search that ran to its end, and the files that it left."""
    name, folder = launched.folder.name, launched.folder.path
    found = winner(launched.outcome) is not None
    if found or not launched.reason:
        _tell(launched.outcome)
    for note in launched.notes:
        console.print(note, markup=False)
    console.print()
    if found and (folder / "best.yaml").exists():
        console.print(f"best configuration  {folder / 'best.yaml'}", markup=False)
    if (folder / "report.html").exists():
        console.print(f"pictures and page   {folder / 'report.html'}", markup=False)
    console.print(f"open MLflow         stillhouse ui {name}", markup=False)
    if found:
        console.print(f"run the best again  stillhouse reuse {name}", markup=False)


def tell_run(run: RunResult, stand: Stand, known: bool) -> None:
    """The headline of a run that was launched before, and how it stands if it has not finished."""
    outcome = run.outcome
    finished = sum(trial.state == "finished" for trial in outcome.trials)
    if stand.state != "finished":
        console.print(stand.sentence(outcome.name, finished), markup=False)
    if run.lacking:
        console.print(lacks(run), markup=False)
    if known or (stand.state == "finished" and not run.lacking):
        _tell(outcome)
    elif ranked := ranking(outcome):
        best, figure = ranked[0], outcome.goals[0].figure
        told = f"{figure} {best.figures.get(figure, math.nan):.4f}"
        console.print(f"best so far, over one seed: trial {best.number}, {told}", markup=False)


def lacks(run: RunResult) -> str:
    """Which repeated configurations cannot be told of, and what makes their records again."""
    library = shown(absolute(run.experiment.library))
    return (
        f"library {library} has no longer all records of {', '.join(run.lacking)}; what was known "
        f"of them is kept; stillhouse resume {run.outcome.name} makes them again"
    )


def _tell(outcome: Outcome) -> None:
    """The headline: the best student beside the plain and the directly distilled one."""
    figure = outcome.goals[0].figure
    chosen = winner(outcome)
    if chosen is None:
        finished = sum(trial.state == "finished" for trial in outcome.trials)
        console.print(f"{outcome.name}: {_why_none(outcome, finished)}", markup=False)
        return
    rows = [row for group in groups(outcome) for row in _rows(group, figure)]
    as_table(("", "parameters", figure, "against the best"), rows)
    for group in groups(outcome):
        for told in (*coinciding(group.best), *limits(outcome, group.best)):
            console.print(f"{group.name}: {told}" if group.name else told, markup=False)
    for one in interactions(outcome):
        told = interval(figure, one.mean, one.low, one.high)
        console.print(f"distillation and {one.technique}: {one.verdict}; interaction {told}")
    if told := screening(outcome):
        console.print(told)
    for name, values in outcome.tests.items():
        told = ", ".join(f"{value:.4f}" for value in values)
        console.print(f"test accuracy of {ROLES[name].short if name in ROLES else name}: {told}")
    console.print(
        f"stages: {len(outcome.made)} made, {len(outcome.reused)} reused "
        f"(saved {duration(seconds_saved(outcome))}); {_trials(outcome)}, "
        f"{sum(t.reused for t in outcome.trials)} of them found in the library; "
        f"{duration(outcome.seconds)}"
    )


def _rows(group: Group, figure: str) -> Iterator[tuple[Any, ...]]:
    """The best of a group and its baselines."""
    where = f"{group.name}, " if group.name else ""
    for role, repeated in {"": group.best, **group.against}.items():
        label = ROLES[role].short if role else f"best student ({where}{repeated.role})"
        size = repeated.records[0].figures.get("parameters", 0)
        against = difference(repeated, group.best, figure) if role else ""
        yield label, int(size), _spread(repeated, figure), against


def _why_none(outcome: Outcome, finished: int) -> str:
    """Why a search that has finished has no best configuration."""
    table = "the figures and reasons are in its table"
    if not finished:
        return f"no trial has finished; {table}"
    if not ranking(outcome):
        return f"none of {finished} finished trials keeps the goal's limits; {table}"
    return f"no repetition of its best trials was made; stillhouse resume {outcome.name}"


def _trials(outcome: Outcome) -> str:
    count = len(outcome.trials)
    return f"{count} trial{'s' * (count != 1)}"


def _spread(repeated: Any, figure: str) -> str:
    return f"{repeated.mean(figure):.4f} +- {repeated.spread(figure):.4f} (n={len(repeated.seeds)})"
