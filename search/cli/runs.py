"""Commands about runs: launch, resume, extend, best, reuse, report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from search.address import shown
from search.cli.live import LiveView
from search.cli.show import Json, Set, as_json, as_table, console, parse_changes
from search.cli.submit import Submit, submit_going_on, submit_launch
from search.factorial import interactions
from search.folder import Busy, RunFolder
from search.launching import Launched
from search.launching import launch as launch_search
from search.launching import resume as resume_search
from search.loading import load_experiment
from search.outcome import Outcome, to_plain, winner
from search.report.headline import coinciding, difference, limits, screening
from search.report.roles import ROLES, Group, groups
from search.report.summary import seconds_saved
from search.report.wording import duration, interval
from search.results import again, onwards, read_best, read_outcome, write_outcome, write_pages
from search.tracking import count_refused, send_pending

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
    with view.showing():
        launched = launch_search(
            experiment, address=address, inline=inline, observers=() if json else (view,)
        )
    _conclude(launched, json)


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
    outcome = read_outcome(folder)
    path = folder.path / "best.yaml"
    best = read_best(path) if winner(outcome) or path.exists() else None
    if json:
        settled = best.data if best else None
        as_json({**to_plain(outcome), "best": settled, "file": str(path)})
        return
    _tell(outcome)
    if best:
        console.print(f"\n{path}\n")
        console.print(best.text, markup=False)


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
    with view.showing():
        launched = launch_search(
            experiment,
            address=address,
            inline=inline,
            observers=() if json else (view,),
            test=not trials,
        )
    _conclude(launched, json)


def report(name: Name, json: Json = False) -> None:
    """Draw a run's pictures and page again from what the library and the study hold."""
    folder = RunFolder.find(name)
    experiment = load_experiment(folder.path / "experiment.yaml")
    outcome = read_outcome(folder)
    try:
        with folder.held(patience=0):
            files = write_outcome(experiment, outcome, folder)
    except Busy:  # its driver writes the outcome itself, and knows more of it
        files = write_pages(experiment, outcome, folder)
    send_pending(folder.path)
    if json:
        as_json([str(file) for file in files])
        return
    for file in files:
        console.print(str(file), markup=False)


def _go_on(
    name: str, trials: int, address: str | None, inline: bool, submit: bool, json: bool
) -> None:
    if submit:
        submit_going_on(name, trials, address, inline, json)
        return
    experiment = load_experiment(RunFolder.find(name).path / "experiment.yaml")
    view = LiveView(experiment, console)
    with view.showing():
        launched = resume_search(
            name,
            address=address,
            inline=inline,
            trials=trials,
            observers=() if json else (view,),
        )
    _conclude(launched, json)


def _conclude(launched: Launched, json: bool) -> None:
    """Say what came out, where it lies, and what to type next."""
    name, folder = launched.folder.name, launched.folder.path
    if json:
        as_json({**to_plain(launched.outcome), "state": launched.state, "folder": str(folder)})
    elif launched.state == "finished":
        _tell(launched.outcome)
        found = winner(launched.outcome) is not None
        console.print()
        if found:
            console.print(f"best configuration  {folder / 'best.yaml'}", markup=False)
        console.print(f"pictures and page   {folder / 'report.html'}", markup=False)
        console.print(f"open MLflow         stillhouse ui {name}", markup=False)
        if found:
            console.print(f"run the best again  stillhouse reuse {name}", markup=False)
    else:
        console.print(f"{name} was stopped; go on with: stillhouse resume {name}", markup=False)
    if launched.unsent and not json:
        console.print(
            f"{launched.unsent} entries could not be sent to {shown(launched.tracking)}; they are "
            f"kept in {folder} and sent by the next resume, report or ui"
        )
    if (refused := count_refused(folder / "tracking")) and not json:
        path = folder / "tracking" / "refused.jsonl"
        console.print(f"MLflow refused {refused} entries; {path} has them with the reasons")
    if launched.state != "finished":
        raise typer.Exit(130)
    if winner(launched.outcome) is None:
        raise typer.Exit(1)


def _tell(outcome: Outcome) -> None:
    """The headline: the best student beside the plain and the directly distilled one."""
    figure = outcome.goals[0].figure
    chosen = winner(outcome)
    if chosen is None:
        finished = sum(trial.state == "finished" for trial in outcome.trials)
        why = f"none of {finished} finished trials keeps the goal's limits"
        told = why if finished else "no trial has finished"
        console.print(f"{outcome.name}: {told}; the figures and reasons are in its table")
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


def _trials(outcome: Outcome) -> str:
    count = len(outcome.trials)
    return f"{count} trial{'s' * (count != 1)}"


def _spread(repeated: Any, figure: str) -> str:
    return f"{repeated.mean(figure):.4f} +- {repeated.spread(figure):.4f} (n={len(repeated.seeds)})"
