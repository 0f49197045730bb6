"""Commands about runs: launch, resume, extend, best, reuse, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from stillhouse.search.cli.live import LiveView
from stillhouse.search.cli.outcome import conclude, lacks, tell_run
from stillhouse.search.cli.show import Json, Set, as_json, console, parse_changes
from stillhouse.search.cli.submit import Submit, submit_going_on, submit_launch
from stillhouse.search.driver.launch import launch as launch_search
from stillhouse.search.driver.launch import resume as resume_search
from stillhouse.search.driver.launched import Launched, SearchFailed
from stillhouse.search.driver.reuse import again, onwards
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.mlflow import send_pending
from stillhouse.search.results.outcome import to_plain, winner
from stillhouse.search.results.run_folder import Busy, RunFolder
from stillhouse.search.runs.kept import load_run, stand_of
from stillhouse.search.runs.result import read_run
from stillhouse.search.runs.results import read_best, write_outcome, write_pages

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
    conclude(_seen(view, partial(begin, observers=observers)), json)


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
    settled = read_best(path) if known or path.exists() else None
    if json:
        told = {**to_plain(run.outcome), "state": stand.state, "lacking": list(run.lacking)}
        as_json({**told, "best": settled.data if settled else None, "file": str(path)})
    else:
        tell_run(run, stand, known)
        if settled:
            console.print(f"\n{path}\n", markup=False)
            console.print(settled.text, markup=False)
    if not known:
        raise typer.Exit(1)


def reuse(
    name: Annotated[str, typer.Argument(help="A run, an experiment, or an MLflow run's id.")],
    data: Annotated[str | None, typer.Option(help="Another data source.")] = None,
    tracking: Annotated[
        str | None,
        typer.Option(help="MLflow's URI: where the id is looked up, and the new runs go."),
    ] = None,
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
    if tracking:
        laid_over["tracking"] = tracking
    if trials:
        named = {} if register is None else {"run.register_as": register}
        experiment = onwards(name, {**named, **laid_over}, trials, of)
    else:
        experiment = again(name, laid_over, seeds, register, of)
    view = LiveView(experiment, console)
    observers = () if json else (view,)
    begin = partial(launch_search, experiment, address=address, inline=inline, test=not trials)
    conclude(_seen(view, partial(begin, observers=observers)), json)


def report(name: Name, json: Json = False) -> None:
    """Draw a run's pictures and page again from what the library and the study hold."""
    folder = RunFolder.find(name)
    run = read_run(folder)
    try:
        with folder.held(patience=0):
            files = write_outcome(run.experiment, run.outcome, folder, run.written)
    except Busy:  # its driver writes the outcome itself, and knows more of it
        files = write_pages(run.experiment, run.outcome, folder)
    send_pending(folder.path)
    if json:
        as_json([str(file) for file in files])
        return
    for file in files:
        console.print(str(file), markup=False)
    if run.lacking:
        console.print(lacks(run), markup=False)


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
    conclude(_seen(view, partial(begin, observers=observers)), json)


def _seen(view: LiveView, begin: Callable[[], Launched]) -> Launched:
    """What a launch came to, also where it failed; the view shows it on its way."""
    try:
        with view.showing():
            return begin()
    except SearchFailed as failed:
        return failed.launched
