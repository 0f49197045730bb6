"""The live view of a search: trials, best so far, what waits for what, reuse, time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.events import (
    Event,
    SearchEnded,
    SearchStarted,
    StageChanged,
    TrialEnded,
    TrialReported,
    TrialStarted,
)
from search.experiment import Experiment
from search.report.wording import distinct, duration

SHOWN = 8
"""Rows of running trials and stages shown at once."""


class LiveView:
    """An observer that keeps what the view shows; it prints plain lines where there is no
    terminal to draw on."""

    def __init__(self, experiment: Experiment, console: Console) -> None:
        self._experiment = experiment
        self._goal = experiment.goals[0]
        self._console = console
        self._plain = not console.is_terminal
        self._since = time.monotonic()
        self._total = experiment.trials
        self._earlier = 0
        self._running: dict[int, tuple[TrialStarted, int, float | None]] = {}
        self._stages: dict[str, StageChanged] = {}
        self._ended: dict[str, int] = {}
        self._best: tuple[float, int] | None = None
        self._made = self._reused = 0

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Draw while the block runs."""
        if self._plain:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, get_renderable=self._draw):
            yield

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self._ended, self._best = dict(event.ended), event.best
                self._total, self._earlier = event.trials, sum(event.ended.values())
                again = "resumed" if event.resumed else "started"
                self._say(f"{event.name} {again}: {self._total} trials")
            case StageChanged():
                self._stage(event)
            case TrialStarted():
                self._running[event.number] = (event, 0, None)
            case TrialReported():
                if event.number in self._running:
                    started, _, _ = self._running[event.number]
                    value = event.metrics.get(self._goal.figure)
                    self._running[event.number] = (started, event.epoch, value)
            case TrialEnded():
                self._trial_ended(event)
            case SearchEnded():
                self._say(f"search {event.state}")

    def _stage(self, event: StageChanged) -> None:
        before = self._stages.get(event.key)
        if event.state in ("made", "reused", "failed"):
            self._stages.pop(event.key, None)
        else:
            self._stages[event.key] = event
        self._made += event.state == "made"
        self._reused += event.state == "reused"
        if event.state in ("made", "failed") or (event.state == "reused" and before is None):
            accuracy = event.record.figures.get("val_accuracy") if event.record else None
            told = f" val_accuracy {accuracy:.4f}" if accuracy is not None else ""
            reason = f": {event.reason}" if event.reason else ""
            self._say(f"stage {event.label} {event.state}{told}{reason}")

    def _trial_ended(self, event: TrialEnded) -> None:
        self._running.pop(event.number, None)
        self._ended[event.state] = self._ended.get(event.state, 0) + 1
        value = event.figures.get(self._goal.figure)
        if event.state == "finished" and value is not None and self._feasible(event):
            better = self._best is None or (value > self._best[0]) == self._goal.maximize
            if better:
                self._best = (value, event.number)
        told = f" {self._goal.figure} {value:.4f}" if value is not None else ""
        reason = f": {event.reason}" if event.reason else ""
        done = f"[{sum(self._ended.values())}/{self._total}]"
        self._say(f"{done} trial {event.number} {event.state}{told}{reason}{self._told_best()}")

    def _feasible(self, event: TrialEnded) -> bool:
        limits = self._experiment.limits
        return all(
            limit.excess(event.figures.get(figure, float("inf"))) <= 0
            for figure, limit in limits.items()
        )

    def _told_best(self) -> str:
        return f" (best {self._best[0]:.4f}, trial {self._best[1]})" if self._best else ""

    def _say(self, line: str) -> None:
        if self._plain:
            elapsed = time.monotonic() - self._since
            self._console.print(f"{elapsed:7.1f} s  {line}", soft_wrap=True, markup=False)

    # Drawing

    def _draw(self) -> RenderableType:
        done, total = sum(self._ended.values()), self._total
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(self._experiment.name, style="bold"),
            ProgressBar(total=total, completed=min(done, total), width=30),
            f"{done} of {total} trials",
            duration(time.monotonic() - self._since) + self._time_left(done, total),
        )
        counts = ", ".join(f"{count} {state}" for state, count in sorted(self._ended.items()))
        facts = f"{counts or 'none ended yet'}; stages: {self._made} made, {self._reused} reused"
        best = f"best {self._goal.figure}{self._told_best() or ': none yet'}"
        parts: list[RenderableType] = [head, Text(facts, style="dim"), Text(best)]
        return Group(*parts, self._trials(), self._waiting())

    def _time_left(self, done: int, total: int) -> str:
        here = done - self._earlier
        if here <= 0 or done >= total:
            return ""
        left = (time.monotonic() - self._since) / here * (total - done)
        return f", about {duration(left)} left"

    def _trials(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=bool(self._running))
        for column in ("trial", "epoch", self._goal.figure, "values"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        for started, epoch, value in list(self._running.values())[:SHOWN]:
            names = _names(list(started.values))
            told = ", ".join(f"{names[p]} {_value(v)}" for p, v in started.values.items())
            accuracy = "" if value is None else f"{value:.4f}"
            table.add_row(str(started.number), str(epoch or ""), accuracy, told)
        return table

    def _waiting(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, show_header=bool(self._stages))
        for column in ("stage", "state", "epoch"):
            table.add_column(column)
        for stage in list(self._stages.values())[:SHOWN]:
            epoch = f"{stage.epoch}/{stage.epochs}" if stage.epoch else ""
            table.add_row(stage.label, stage.state, epoch)
        more = len(self._stages) - SHOWN
        if more > 0:
            table.add_row(f"and {more} more", "", "")
        return table


def _names(paths: list[str]) -> dict[str, str]:
    """Each path's last step, and more of it where that is not enough to tell it from others."""
    last = {path: path.rpartition(".")[2] for path in paths}
    return last if len(set(last.values())) == len(last) else distinct(paths)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
