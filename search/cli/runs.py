"""Commands about runs: launch, resume, extend, best, reuse, report, ui."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from search.address import shown
from search.cli.live import LiveView
from search.cli.show import Json, Set, as_json, as_table, console, parse_changes
from search.cli.submit import Submit, submit_going_on, submit_launch
from search.document import read_document
from search.factorial import interactions
from search.folder import RunFolder
from search.kept_run import Stand, load_run, stand_of
from search.launched import Launched, SearchFailed
from search.launching import how_to_go_on
from search.launching import launch as launch_search
from search.launching import resume as resume_search
from search.library.place import absolute
from search.loading import load_experiment
from search.outcome import Outcome, to_plain, winner
from search.report.headline import difference, screening
from search.report.roles import ROLES, Group, groups
from search.report.summary import ranking, seconds_saved
from search.report.wording import duration, interval
from search.results import RunResult, again, onwards, read_run, write_outcome
from search.tracking import (
    is_loopback,
    resolve_uri,
    runs_url,
    send_pending,
    server_settings,
    ui_command,
)

File = Annotated[Path, typer.Argument(help="Experiment file (YAML).")]
Name = Annotated[str, typer.Argument(help="A run (name-3), or an experiment: its newest run.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster; 'auto' for the one this machine belongs to.")
]
Inline = Annotated[bool, typer.Option("--inline", help="In this process, without Ray.")]


def launch(
    file: File,
    address: Address = None,
    changes: Set = None,
    inline: Inline = False,
    submit: Submit = False,
    json: Json = False,
) -> None:
    """Run the search that a file describes."""
    experiment = load_experiment(file, parse_changes(changes))
    if submit:
        submit_launch(experiment, address, inline, json)
        return
    view = LiveView(experiment, console)
    observers = () if json else (view,)
    begin = partial(launch_search, experiment, address=address, inline=inline)
    _conclude(_seen(view, partial(begin, observers=observers)), json)


def resume(
    name: Name,
    address: Address = None,
    inline: Inline = False,
    submit: Submit = False,
    json: Json = False,
) -> None:
    """Go on with a run that was stopped; nothing finished is done again."""
    _go_on(name, 0, address, inline, submit, json)


def extend(
    name: Name,
    trials: Annotated[int, typer.Option(min=1, help="How many more.")],
    address: Address = None,
    inline: Inline = False,
    submit: Submit = False,
    json: Json = False,
) -> None:
    """More trials for a run that has ended; its sampler knows all earlier ones."""
    _go_on(name, trials, address, inline, submit, json)


def best(name: Name, json: Json = False) -> None:
    """The best configuration of a run, and how sure that is."""
    folder = RunFolder.find(name)
    run, stand = read_run(folder), stand_of(folder)
    path = folder.path / "best.yaml"
    known = winner(run.outcome) is not None and not run.lacks_trials
    if json:
        settled = read_document(path).data if path.exists() else None
        told = {**to_plain(run.outcome), "state": stand.state, "lacking": list(run.lacking)}
        as_json({**told, "best": settled, "file": str(path)})
    else:
        _tell_run(run, stand, known)
        if path.exists():
            console.print(f"\n{path}\n", markup=False)
            console.print(path.read_text(encoding="utf-8"), markup=False)
    if not known:
        raise typer.Exit(1)


def reuse(
    name: Annotated[str, typer.Argument(help="A run, an experiment, or an MLflow run's id.")],
    data: Annotated[str | None, typer.Option(help="Another data source.")] = None,
    changes: Set = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    trials: Annotated[
        int, typer.Option(min=0, help="Search again from the winner and around it: so many trials.")
    ] = 0,
    of: Annotated[
        str, typer.Option(help="A value of run.repeats.of_each: its best, not the best of all.")
    ] = "",
    register: Annotated[str | None, typer.Option(help="Name in MLflow's registry.")] = None,
    address: Address = None,
    inline: Inline = False,
    json: Json = False,
) -> None:
    """Retrain the best recipe over seeds, look at the test split once, register the winner.

    With --trials: the start of a new search, say on other data.
    """
    laid_over = parse_changes(changes)
    if data:
        laid_over["data.source"] = data
    if trials:
        named = {"run.register_as": register} if register else {}
        experiment = onwards(name, {**named, **laid_over}, trials, of)
    else:
        experiment = again(name, laid_over, seeds, register, of)
    view = LiveView(experiment, console)
    observers = () if json else (view,)
    begin = partial(launch_search, experiment, address=address, inline=inline, test=not trials)
    _conclude(_seen(view, partial(begin, observers=observers)), json)


def report(name: Name, json: Json = False) -> None:
    """Draw a run's pictures and page again from what the library and the study hold."""
    folder = RunFolder.find(name)
    run = read_run(folder)
    files = write_outcome(run.experiment, run.outcome, folder, run.written)
    send_pending(folder.path)
    if json:
        as_json([str(file) for file in files])
        return
    for file in files:
        console.print(str(file), markup=False)
    if run.lacking:
        console.print(_lacks(run), markup=False)


def ui(
    name: Annotated[str | None, typer.Argument(help="A run, to use its tracking store.")] = None,
    tracking: Annotated[str | None, typer.Option(help="MLflow's URI.")] = None,
    port: int = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    allowed_hosts: Annotated[
        str | None,
        typer.Option(metavar="HOSTS", help="Names it may be called by; needed beyond loopback."),
    ] = None,
) -> None:
    """Open MLflow on the tracking store; Ctrl-C ends it."""
    title = None
    if name:
        folder = RunFolder.find(name)
        experiment = load_run(folder)
        tracking, title = experiment.tracking, experiment.name
        send_pending(folder.path)
    uri = resolve_uri(tracking, Path.cwd())
    command = ui_command(uri, host, port, allowed_hosts)
    page = runs_url(uri, title, port) if title else f"http://{host}:{port}"
    if not is_loopback(host):
        told = "no password is asked: who reaches this port can read and change all runs"
        console.print(f"warning: {told}", markup=False)
    console.print(f"open {page} (Ctrl-C ends it)", markup=False)
    with contextlib.suppress(KeyboardInterrupt):
        subprocess.run(command, check=False, env={**os.environ, **server_settings(uri)})


def _go_on(
    name: str, trials: int, address: str | None, inline: bool, submit: bool, json: bool
) -> None:
    if submit:
        submit_going_on(name, trials, address, inline, json)
        return
    experiment = load_run(RunFolder.find(name))
    view = LiveView(experiment, console)
    observers = () if json else (view,)
    begin = partial(resume_search, name, address=address, inline=inline, trials=trials)
    _conclude(_seen(view, partial(begin, observers=observers)), json)


def _seen(view: LiveView, begin: Callable[[], Launched]) -> Launched:
    """What a launch came to, also where it failed; the view shows it on its way."""
    try:
        with view.showing():
            return begin()
    except SearchFailed as failed:
        return failed.launched


def _conclude(launched: Launched, json: bool) -> None:
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


def _tell_run(run: RunResult, stand: Stand, known: bool) -> None:
    """The headline of a run that was launched before, and how it stands if it has not finished."""
    outcome = run.outcome
    finished = sum(trial.state == "finished" for trial in outcome.trials)
    if stand.state != "finished":
        console.print(stand.sentence(outcome.name, finished), markup=False)
    if run.lacking:
        console.print(_lacks(run), markup=False)
    if known or (stand.state == "finished" and not run.lacking):
        _tell(outcome)
    elif ranked := ranking(outcome):
        best, figure = ranked[0], outcome.goals[0].figure
        told = f"{figure} {best.figures.get(figure, math.nan):.4f}"
        console.print(f"best so far, over one seed: trial {best.number}, {told}", markup=False)


def _lacks(run: RunResult) -> str:
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
        against = difference(group.best, repeated, figure) if role else ""
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
