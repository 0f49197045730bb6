"""Prints the outcome of a search on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import typer

from stillhouse.search.artifacts.places import absolute_address
from stillhouse.search.cli.show import console, print_json, print_table
from stillhouse.search.core.addresses import for_display
from stillhouse.search.core.formatting import format_duration, format_interval
from stillhouse.search.driver.launch import resume_hint
from stillhouse.search.driver.launched import LaunchResult, SearchFailed
from stillhouse.search.evaluation.factorial import interactions
from stillhouse.search.monitoring.mlflow import count_refusals
from stillhouse.search.report.core.headline import (
    coinciding_baselines,
    difference_text,
    limit_sentences,
    screen_sentence,
)
from stillhouse.search.report.core.roles import ROLE_STYLES, ComparisonGroup, comparison_groups
from stillhouse.search.results.outcome import Outcome, to_plain, winner
from stillhouse.search.results.statistics import ranking, seconds_saved
from stillhouse.search.runs.kept import RunState
from stillhouse.search.runs.result import RunResult


def print_outcome(launched: LaunchResult, json: bool) -> None:
    """Print the outcome, its files and the next commands.

    Raises:
        typer.Exit: the search was interrupted (130), failed or has no winner (1).
    """
    name, folder = launched.folder.name, launched.folder.path
    if json:
        result = {**to_plain(launched.outcome), "state": launched.state, "folder": str(folder)}
        print_json({**result, "reason": launched.reason, "notes": list(launched.notes)})
    elif launched.state == "interrupted":
        console.print(resume_hint(name), markup=False)
    else:
        _print_end(launched)
    if launched.unsent and not json:
        console.print(
            f"{launched.unsent} entries could not be sent to {for_display(launched.tracking)}; "
            f"they are kept in {folder} and sent by the next resume, report or ui"
        )
    if (num_refused := count_refusals(folder / "tracking")) and not json:
        path = folder / "tracking" / "refused.jsonl"
        console.print(f"MLflow refused {num_refused} entries; {path} holds them with the reasons")
    if launched.reason:
        typer.echo(f"error: {SearchFailed(launched)}", err=True)
    if launched.state == "interrupted":
        raise typer.Exit(130)
    if launched.state == "failed" or winner(launched.outcome) is None:
        raise typer.Exit(1)


def _print_end(launched: LaunchResult) -> None:
    """Print the headline of a search that ran to its end, and its files."""
    name, folder = launched.folder.name, launched.folder.path
    has_winner = winner(launched.outcome) is not None
    if has_winner or not launched.reason:
        _print_headline(launched.outcome)
    for note in launched.notes:
        console.print(note, markup=False)
    console.print()
    if has_winner and (folder / "best.yaml").exists():
        console.print(f"best configuration  {folder / 'best.yaml'}", markup=False)
    if (folder / "report.html").exists():
        console.print(f"pictures and page   {folder / 'report.html'}", markup=False)
    console.print(f"open MLflow         stillhouse ui {name}", markup=False)
    if has_winner:
        console.print(f"run the best again  stillhouse reuse {name}", markup=False)


def print_run(run: RunResult, run_state: RunState, has_result: bool) -> None:
    """Print the headline of an earlier run, and its state if it has not finished."""
    outcome = run.outcome
    finished = sum(trial.state == "finished" for trial in outcome.trials)
    if run_state.state != "finished":
        console.print(run_state.describe(outcome.name, finished), markup=False)
    if run.missing_repeats:
        console.print(missing_records_message(run), markup=False)
    if has_result or (run_state.state == "finished" and not run.missing_repeats):
        _print_headline(outcome)
    elif ranked := ranking(outcome):
        best_trial, metric = ranked[0], outcome.goals[0].figure
        value_text = f"{metric} {best_trial.figures.get(metric, math.nan):.4f}"
        console.print(
            f"best so far, over one seed: trial {best_trial.number}, {value_text}", markup=False
        )


def missing_records_message(run: RunResult) -> str:
    """Names the repeated configurations without records, and the command that restores them."""
    library = for_display(absolute_address(run.experiment.library))
    return (
        f"library {library} has no longer all records of {', '.join(run.missing_repeats)}; their "
        f"known results are kept; stillhouse resume {run.outcome.name} makes them again"
    )


def _print_headline(outcome: Outcome) -> None:
    """Print the best student and its baselines."""
    metric = outcome.goals[0].figure
    winning_runs = winner(outcome)
    if winning_runs is None:
        finished = sum(trial.state == "finished" for trial in outcome.trials)
        console.print(f"{outcome.name}: {_no_winner_reason(outcome, finished)}", markup=False)
        return
    rows = [row for group in comparison_groups(outcome) for row in _group_rows(group, metric)]
    print_table(("", "parameters", metric, "against the best"), rows)
    for group in comparison_groups(outcome):
        for text in (
            *coinciding_baselines(group.best_runs),
            *limit_sentences(outcome, group.best_runs),
        ):
            console.print(f"{group.name}: {text}" if group.name else text, markup=False)
    for interaction in interactions(outcome):
        text = format_interval(metric, interaction.mean, interaction.low, interaction.high)
        console.print(
            f"distillation and {interaction.technique}: {interaction.verdict}; interaction {text}"
        )
    if text := screen_sentence(outcome):
        console.print(text)
    for name, values in outcome.test_accuracies.items():
        text = ", ".join(f"{value:.4f}" for value in values)
        console.print(
            f"test accuracy of {ROLE_STYLES[name].label if name in ROLE_STYLES else name}: {text}"
        )
    console.print(
        f"stages: {len(outcome.made_keys)} made, {len(outcome.reused_keys)} reused "
        f"(saved {format_duration(seconds_saved(outcome))}); {_trials_text(outcome)}, "
        f"{sum(t.reused for t in outcome.trials)} of them found in the library; "
        f"{format_duration(outcome.seconds)}"
    )


def _group_rows(group: ComparisonGroup, metric: str) -> Iterator[tuple[Any, ...]]:
    """One row for the best of a group, and one for each of its baselines."""
    group_text = f"{group.name}, " if group.name else ""
    for role, seed_runs in {"": group.best_runs, **group.baselines}.items():
        label = ROLE_STYLES[role].label if role else f"best student ({group_text}{seed_runs.role})"
        size = seed_runs.records[0].figures.get("parameters", 0)
        against = difference_text(seed_runs, group.best_runs, metric) if role else ""
        yield label, int(size), _mean_text(seed_runs, metric), against


def _no_winner_reason(outcome: Outcome, finished: int) -> str:
    """Why a finished search has no best configuration."""
    table = "the table of trials has the figures and reasons"
    if not finished:
        return f"no trial has finished; {table}"
    if not ranking(outcome):
        return f"none of {finished} finished trials keeps the goal's limits; {table}"
    return f"its best trials have not been repeated; stillhouse resume {outcome.name}"


def _trials_text(outcome: Outcome) -> str:
    count = len(outcome.trials)
    return f"{count} trial{'s' * (count != 1)}"


def _mean_text(seed_runs: Any, metric: str) -> str:
    return (
        f"{seed_runs.mean(metric):.4f} +- {seed_runs.spread(metric):.4f} (n={len(seed_runs.seeds)})"
    )
