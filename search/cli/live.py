"""The live view of a search on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stillhouse.search.core.formatting import distinct_suffixes, format_duration
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.events import (
    Event,
    ScreenDisabled,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    WarningIssued,
)
from stillhouse.search.monitoring.status import SearchStatus

MAX_ROWS = 8
"""Maximum number of rows for running trials, and for stages."""
PROGRESS_INTERVAL = 60.0
"""Seconds without a line after which the plain view prints the next epoch."""


class LiveView:
    """An observer that draws the state of a search; without a terminal it prints plain lines."""

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self._status = SearchStatus(experiment)
        self._console = console
        self._is_plain = not console.is_terminal
        self._started_at = self._last_line_at = time.monotonic()

    @contextmanager
    def display(self) -> Iterator[None]:
        """Draw while the block runs."""
        if self._is_plain:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, get_renderable=self._render):
            yield

    def __call__(self, event: Event) -> None:
        known_stages = set(self._status.open_stages)
        self._status(event)
        match event:
            case SearchStarted():
                verb = "resumed" if event.resumed else "started"
                self._print_line(f"{event.name} {verb}: {event.num_trials} trials")
            case StageChanged(state="running", epoch=epoch) if epoch:
                self._print_progress(f"stage {event.label} is at {epoch} of {event.epochs}")
            case StageChanged(state="running", in_trial=True):
                self._print_line(
                    f"stage {event.label} finds no free slot: a waiting trial builds it"
                )
            case StageChanged():
                self._print_stage(event, event.key not in known_stages)
            case TrialReported():
                self._print_progress(f"trial {event.number} is at epoch {event.epoch}")
            case TrialEnded():
                self._print_trial(event)
            case ScreenDisabled(reason):
                self._print_line(f"the screen is disabled: {reason}")
            case WarningIssued():
                self._print_warning(event)
            case SearchEnded():
                self._print_line(f"search {event.state}")

    def _print_warning(self, event: WarningIssued) -> None:
        """Print a warning above the view, where it stays."""
        if self._is_plain:
            self._print_line(f"warning: {event}")
        else:
            self._console.print(f"warning: {event}", soft_wrap=True, markup=False, style="yellow")

    def _print_stage(self, event: StageChanged, is_new: bool) -> None:
        if event.state in ("made", "failed") or (event.state == "reused" and is_new):
            accuracy = event.record.figures.get("val_accuracy") if event.record else None
            accuracy_text = f" val_accuracy {accuracy:.4f}" if accuracy is not None else ""
            reason = f": {event.reason}" if event.reason else ""
            self._print_line(f"stage {event.label} {event.state}{accuracy_text}{reason}")

    def _print_progress(self, line: str) -> None:
        """At most one line per :data:`PROGRESS_INTERVAL`: a log needs a sign of progress only."""
        if time.monotonic() - self._last_line_at >= PROGRESS_INTERVAL:
            self._print_line(line)

    def _print_trial(self, event: TrialEnded) -> None:
        status = self._status
        value = event.figures.get(status.goal_metric)
        value_text = f" {status.goal_metric} {value:.4f}" if value is not None else ""
        reason = f": {event.reason}" if event.reason else ""
        progress = f"[{status.num_ended}/{status.total}]"
        self._print_line(
            f"{progress} trial {event.number} {event.state}{value_text}{reason}{self._best_text()}"
        )

    def _best_text(self) -> str:
        value_and_trial = self._status.best
        return (
            f" (best {value_and_trial[0]:.4f}, trial {value_and_trial[1]})"
            if value_and_trial
            else ""
        )

    def _print_line(self, line: str) -> None:
        self._last_line_at = time.monotonic()
        if self._is_plain:
            elapsed = self._last_line_at - self._started_at
            self._console.print(f"{elapsed:7.1f} s  {line}", soft_wrap=True, markup=False)

    # Drawing

    def _render(self) -> RenderableType:
        status = self._status
        head = Table.grid(padding=(0, 2))
        seconds_left = status.seconds_left()
        head.add_row(
            Text(status.experiment.name, style="bold"),
            ProgressBar(
                total=status.total, completed=min(status.num_ended, status.total), width=30
            ),
            f"{status.num_ended} of {status.total} trials",
            format_duration(time.monotonic() - self._started_at)
            + (f", about {format_duration(seconds_left)} left" if seconds_left else ""),
        )
        stage_counts = f"{status.num_made} made, {status.num_reused} reused"
        summary = f"{state_counts_text(status.ended_counts)}; stages: {stage_counts}"
        best_line = f"best {status.goal_metric}{self._best_text() or ': none yet'}"
        parts: list[RenderableType] = [head, Text(summary, style="dim"), Text(best_line)]
        return Group(*parts, self._trial_table(), self._stage_table())

    def _trial_table(self) -> RenderableType:
        running = self._status.running_trials
        table = Table(box=None, pad_edge=False, show_header=bool(running))
        for column in ("trial", "epoch", self._status.goal_metric, "values"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for trial in list(running.values())[:MAX_ROWS]:
            accuracy = "" if trial.value is None else f"{trial.value:.4f}"
            epoch = str(trial.epoch or "")
            table.add_row(str(trial.number), epoch, accuracy, settings_text(trial.values))
        return table

    def _stage_table(self) -> RenderableType:
        stages = self._status.open_stages
        table = Table(box=None, pad_edge=False, show_header=bool(stages))
        for column in ("stage", "state", "epoch"):
            table.add_column(column)
        for stage in list(stages.values())[:MAX_ROWS]:
            epoch = f"{stage.epoch}/{stage.epochs}" if stage.epoch else ""
            table.add_row(stage.label, stage.state, epoch)
        num_hidden = len(stages) - MAX_ROWS
        if num_hidden > 0:
            table.add_row(f"and {num_hidden} more", "", "")
        return table


def state_counts_text(ended: Mapping[str, int]) -> str:
    """``3 finished, 1 pruned``."""
    return ", ".join(f"{count} {state}" for state, count in sorted(ended.items())) or "none ended"


def settings_text(values: Mapping[str, object]) -> str:
    """Searched values in one line, each with the shortest unique suffix of its path."""
    names = _short_names(list(values))
    return ", ".join(f"{names[path]} {_value_text(value)}" for path, value in values.items())


def _short_names(paths: list[str]) -> dict[str, str]:
    """Path -> its last step, or longer suffixes if two paths share that step."""
    last_steps = {path: path.rpartition(".")[2] for path in paths}
    return (
        last_steps if len(set(last_steps.values())) == len(last_steps) else distinct_suffixes(paths)
    )


def _value_text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
