"""The live view of a search: trials, best so far, what waits for what, reuse, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stillhouse.search.core.formatting import distinct, duration
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.monitoring.events import (
    Event,
    ScreenOff,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    Warned,
)
from stillhouse.search.monitoring.status import Standing

SHOWN = 8
"""Rows of running trials and stages shown at once."""
QUIET = 60.0
"""Seconds without a plain line after which the next report of an epoch is one."""


class LiveView:
    """An observer that keeps what the view shows; it prints plain lines where there is no
    terminal to draw on."""

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self._standing = Standing(experiment)
        self._console = console
        self._plain = not console.is_terminal
        self._since = self._said = time.monotonic()

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Draw while the block runs."""
        if self._plain:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, get_renderable=self._draw):
            yield

    def __call__(self, event: Event) -> None:
        known = set(self._standing.stages)
        self._standing(event)
        match event:
            case SearchStarted():
                again = "resumed" if event.resumed else "started"
                self._say(f"{event.name} {again}: {event.trials} trials")
            case StageChanged(state="running", epoch=epoch) if epoch:
                self._tell_progress(f"stage {event.label} is at {epoch} of {event.epochs}")
            case StageChanged(state="running", in_trial=True):
                self._say(f"stage {event.label} finds no free slot: a waiting trial makes it")
            case StageChanged():
                self._tell_stage(event, event.key not in known)
            case TrialReported():
                self._tell_progress(f"trial {event.number} is at epoch {event.epoch}")
            case TrialEnded():
                self._tell_trial(event)
            case ScreenOff(reason):
                self._say(f"the screen is switched off: {reason}")
            case Warned():
                self._warn(event)
            case SearchEnded():
                self._say(f"search {event.state}")

    def _warn(self, event: Warned) -> None:
        """Above the view as well, where it stays."""
        if self._plain:
            self._say(f"warning: {event}")
        else:
            self._console.print(f"warning: {event}", soft_wrap=True, markup=False, style="yellow")

    def _tell_stage(self, event: StageChanged, new: bool) -> None:
        if event.state in ("made", "failed") or (event.state == "reused" and new):
            accuracy = event.record.figures.get("val_accuracy") if event.record else None
            told = f" val_accuracy {accuracy:.4f}" if accuracy is not None else ""
            reason = f": {event.reason}" if event.reason else ""
            self._say(f"stage {event.label} {event.state}{told}{reason}")

    def _tell_progress(self, line: str) -> None:
        """Rarely: whoever reads a log wants to know that it goes on, and not of every epoch."""
        if time.monotonic() - self._said >= QUIET:
            self._say(line)

    def _tell_trial(self, event: TrialEnded) -> None:
        standing = self._standing
        value = event.figures.get(standing.figure)
        told = f" {standing.figure} {value:.4f}" if value is not None else ""
        reason = f": {event.reason}" if event.reason else ""
        done = f"[{standing.done}/{standing.total}]"
        self._say(f"{done} trial {event.number} {event.state}{told}{reason}{self._told_best()}")

    def _told_best(self) -> str:
        best = self._standing.best
        return f" (best {best[0]:.4f}, trial {best[1]})" if best else ""

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        if self._plain:
            elapsed = self._said - self._since
            self._console.print(f"{elapsed:7.1f} s  {line}", soft_wrap=True, markup=False)

    # Drawing

    def _draw(self) -> RenderableType:
        standing = self._standing
        head = Table.grid(padding=(0, 2))
        left = standing.seconds_left()
        head.add_row(
            Text(standing.experiment.name, style="bold"),
            ProgressBar(
                total=standing.total, completed=min(standing.done, standing.total), width=30
            ),
            f"{standing.done} of {standing.total} trials",
            duration(time.monotonic() - self._since)
            + (f", about {duration(left)} left" if left else ""),
        )
        facts = f"{counts(standing.ended)}; stages: {standing.made} made, {standing.reused} reused"
        best = f"best {standing.figure}{self._told_best() or ': none yet'}"
        parts: list[RenderableType] = [head, Text(facts, style="dim"), Text(best)]
        return Group(*parts, self._trials(), self._waiting())

    def _trials(self) -> RenderableType:
        running = self._standing.running
        table = Table(box=None, pad_edge=False, show_header=bool(running))
        for column in ("trial", "epoch", self._standing.figure, "values"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for trial in list(running.values())[:SHOWN]:
            accuracy = "" if trial.value is None else f"{trial.value:.4f}"
            epoch = str(trial.epoch or "")
            table.add_row(str(trial.number), epoch, accuracy, told_values(trial.values))
        return table

    def _waiting(self) -> RenderableType:
        stages = self._standing.stages
        table = Table(box=None, pad_edge=False, show_header=bool(stages))
        for column in ("stage", "state", "epoch"):
            table.add_column(column)
        for stage in list(stages.values())[:SHOWN]:
            epoch = f"{stage.epoch}/{stage.epochs}" if stage.epoch else ""
            table.add_row(stage.label, stage.state, epoch)
        more = len(stages) - SHOWN
        if more > 0:
            table.add_row(f"and {more} more", "", "")
        return table


def counts(ended: Mapping[str, int]) -> str:
    """``3 finished, 1 pruned``."""
    return ", ".join(f"{count} {state}" for state, count in sorted(ended.items())) or "none ended"


def told_values(values: Mapping[str, object]) -> str:
    """Searched values in one line, each under the last of its name that tells it from others."""
    names = _names(list(values))
    return ", ".join(f"{names[path]} {_value(value)}" for path, value in values.items())


def _names(paths: list[str]) -> dict[str, str]:
    """Each path's last step, and more of it where that is not enough to tell it from others."""
    last = {path: path.rpartition(".")[2] for path in paths}
    return last if len(set(last.values())) == len(last) else distinct(paths)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
