"""Commands about runs: launch, resume, extend, best, reuse, report."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from stillhouse.search.cli.live import LiveView
from stillhouse.search.cli.options import (
    AddressOption,
    FileArgument,
    InlineOption,
    JsonOption,
    RunArgument,
    SetOption,
    parse_overrides,
)
from stillhouse.search.cli.outcome import missing_records_message, print_outcome, print_run
from stillhouse.search.cli.show import console, print_json
from stillhouse.search.cli.submit import SubmitOption, submit_launch, submit_resume
from stillhouse.search.driver.launch import launch as launch_search
from stillhouse.search.driver.launch import resume as resume_search
from stillhouse.search.driver.launched import LaunchResult, SearchFailed
from stillhouse.search.driver.reuse import continue_from_winner, repeat_winner
from stillhouse.search.experiment.loading import load_experiment
from stillhouse.search.monitoring.mlflow import send_pending
from stillhouse.search.results.outcome import to_plain, winner
from stillhouse.search.results.run_folder import RunFolder, RunLocked
from stillhouse.search.runs.kept import load_run, run_state
from stillhouse.search.runs.result import read_run
from stillhouse.search.runs.results import read_best, write_outcome, write_pages


def launch(
    file: FileArgument,
    address: AddressOption = None,
    changes: SetOption = None,
    inline: InlineOption = False,
    submit: SubmitOption = False,
    json: JsonOption = False,
) -> None:
    """Run the search that a file describes."""
    experiment = load_experiment(file, parse_overrides(changes))
    if submit:
        submit_launch(experiment, address, inline, json)
        return
    view = LiveView(experiment, console)
    observers = () if json else (view,)
    begin = partial(launch_search, experiment, address=address, inline=inline)
    print_outcome(_launch_with_view(view, partial(begin, observers=observers)), json)


def resume(
    name: RunArgument,
    address: AddressOption = None,
    inline: InlineOption = False,
    submit: SubmitOption = False,
    json: JsonOption = False,
) -> None:
    """Continue a run that was stopped; nothing finished is repeated."""
    _continue_run(name, 0, address, inline, submit, json)


def extend(
    name: RunArgument,
    trials: Annotated[int, typer.Option(min=1, help="Number of trials to add.")],
    address: AddressOption = None,
    inline: InlineOption = False,
    submit: SubmitOption = False,
    json: JsonOption = False,
) -> None:
    """Add trials to a run that has ended; the sampler knows the earlier ones."""
    _continue_run(name, trials, address, inline, submit, json)


def best(name: RunArgument, json: JsonOption = False) -> None:
    """Show the best configuration of a run, and how certain it is."""
    folder = RunFolder.find(name)
    run, state = read_run(folder), run_state(folder)
    path = folder.path / "best.yaml"
    has_result = winner(run.outcome) is not None and not run.misses_trials
    best_config = read_best(path) if has_result or path.exists() else None
    if json:
        result = {
            **to_plain(run.outcome),
            "state": state.state,
            "lacking": list(run.missing_repeats),
        }
        print_json({**result, "best": best_config.data if best_config else None, "file": str(path)})
    else:
        print_run(run, state, has_result)
        if best_config:
            console.print(f"\n{path}\n", markup=False)
            console.print(best_config.text, markup=False)
    if not has_result:
        raise typer.Exit(1)


def reuse(
    name: Annotated[str, typer.Argument(help="A run, an experiment, or an MLflow run's id.")],
    data: Annotated[str | None, typer.Option(help="Another data source.")] = None,
    tracking: Annotated[
        str | None,
        typer.Option(help="MLflow store that has the id and gets the new runs (URI)."),
    ] = None,
    changes: SetOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    trials: Annotated[
        int, typer.Option(min=0, help="Search again from the winner, with this many trials.")
    ] = 0,
    of: Annotated[
        str, typer.Option(help="A value of run.repeats.of_each: its winner, not the overall one.")
    ] = "",
    register: Annotated[str | None, typer.Option(help="Name in MLflow's registry.")] = None,
    address: AddressOption = None,
    inline: InlineOption = False,
    json: JsonOption = False,
) -> None:
    """Retrain the best recipe over seeds, evaluate it on the test split, register the winner.

    With --trials, start a new search from it, for example on other data.
    """
    overrides = parse_overrides(changes)
    if data:
        overrides["data.source"] = data
    if tracking:
        overrides["tracking"] = tracking
    if trials:
        registry_setting = {} if register is None else {"run.register_as": register}
        experiment = continue_from_winner(name, {**registry_setting, **overrides}, trials, of)
    else:
        experiment = repeat_winner(name, overrides, seeds, register, of)
    view = LiveView(experiment, console)
    observers = () if json else (view,)
    begin = partial(launch_search, experiment, address=address, inline=inline, test=not trials)
    print_outcome(_launch_with_view(view, partial(begin, observers=observers)), json)


def report(name: RunArgument, json: JsonOption = False) -> None:
    """Draw a run's pictures and page again, from the library and the study."""
    folder = RunFolder.find(name)
    run = read_run(folder)
    try:
        with folder.locked(timeout=0):
            files = write_outcome(run.experiment, run.outcome, folder, run.written_outcome)
    except RunLocked:  # its driver is running, and writes the outcome itself
        files = write_pages(run.experiment, run.outcome, folder)
    send_pending(folder.path)
    if json:
        print_json([str(file) for file in files])
        return
    for file in files:
        console.print(str(file), markup=False)
    if run.missing_repeats:
        console.print(missing_records_message(run), markup=False)


def _continue_run(
    name: str, trials: int, address: str | None, inline: bool, submit: bool, json: bool
) -> None:
    if submit:
        submit_resume(name, trials, address, inline, json)
        return
    experiment = load_run(RunFolder.find(name))
    view = LiveView(experiment, console)
    observers = () if json else (view,)
    begin = partial(resume_search, name, address=address, inline=inline, trials=trials)
    print_outcome(_launch_with_view(view, partial(begin, observers=observers)), json)


def _launch_with_view(view: LiveView, begin: Callable[[], LaunchResult]) -> LaunchResult:
    """The result of a launch, also of a failed one; the view shows its progress."""
    try:
        with view.display():
            return begin()
    except SearchFailed as failed:
        return failed.result
