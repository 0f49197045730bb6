"""What mattered: each searched value's importance, and the goal over the values of the top few."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from stillhouse.search.core import formatting
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.label_layout import beside, worth_showing
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome, Trial
from stillhouse.search.results.statistics import ranking

BARS, PANELS = 10, 4
_INCHES = (7.6, 3.9)
_DOTS = (5.0, 3.2)  # points across, and with more than a hundred trials
_PANEL = (0.215, 0.335)  # of the picture


def draw(outcome: Outcome, space: Mapping[str, Any]) -> Picture | None:
    """The picture; none where importances are not known. ``space`` holds the searched domains."""
    goal = outcome.goals[0]
    shares = sorted(outcome.importances.items(), key=lambda item: -item[1])[:BARS]
    trials = [t for t in ranking(outcome) if math.isfinite(t.figures.get(goal.figure, math.nan))]
    if not (shares and trials):
        return None
    names = formatting.distinct([path for path, _ in shares])
    figure = Figure(figsize=_INCHES)
    _bars(figure.add_axes((0.24, 0.11, 0.17, 0.825)), shares, names)
    tried = [p for p, _ in shares if any(value_at(trial, p) is not None for trial in trials)]
    for place, path in enumerate(tried[:PANELS]):
        row, column = divmod(place, 2)
        box = (0.515 + 0.265 * column, 0.6 - 0.49 * row, *_PANEL)
        axes = figure.add_axes(box)
        domain = space.get(path)
        even = isinstance(domain, Mapping) and "uniform" in domain
        _scatter(axes, trials, path, goal, even)
        axes.set_title(formatting.short(names[path], 24))
        axes.tick_params("y", labelleft=column == 0)
    return Picture("importances", "What mattered", _caption(outcome, shares, trials), figure)


def _caption(outcome: Outcome, shares: Sequence[Any], trials: Sequence[Trial]) -> str:
    told = (
        f"Left: each searched value's share in how {formatting.name(outcome.goals[0].figure)} "
        f"varies between trials. Right: {formatting.axis(outcome.goals[0].figure)} of the "
        f"{len(trials)} finished trials over the values of the first few; the best one is ringed."
    )
    if left_out := len(outcome.importances) - len(shares):
        told += f" {left_out} less important values are not shown."
    return told


def value_at(trial: Trial, path: str) -> Any:
    """A trial's value at a path of the importances; none where it did not apply.

    A chain's members are asked for one by one: ``assistants.networks.cnn6`` is ``with`` or
    ``without``.
    """
    if path in trial.values:
        return trial.values[path]
    chain, _, member = path.rpartition(".")
    if isinstance(trial.values.get(chain), list | tuple):
        return "with" if member in trial.values[chain] else "without"
    return None


def _bars(axes: Axes, shares: Sequence[tuple[str, float]], names: Mapping[str, str]) -> None:
    look.bare(axes)
    rows = [-place for place in range(len(shares))]
    axes.barh(rows, [share for _, share in shares], height=0.42, color=look.TRIAL)
    axes.set_yticks(rows, [formatting.short(names[path], 26) for path, _ in shares])
    axes.tick_params("y", labelcolor=look.INK)
    axes.set_ylim(-max(len(shares), 5) + 0.4, 0.6)
    axes.set_title("importance")
    for row, (_, share) in zip(rows, shares, strict=True):
        axes.annotate(
            f"{100 * share:.0f} %",
            (share, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=8,
            color=look.MUTED,
        )


def _scatter(axes: Axes, trials: Sequence[Trial], path: str, goal: Goal, even: bool) -> None:
    """The goal over a searched value; names stand on the axis as categories."""
    shown = [trial for trial in trials if value_at(trial, path) is not None]
    ys = [formatting.shown(goal.figure, trial.figures[goal.figure]) for trial in trials]
    low, high = worth_showing(ys, goal.maximize)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - room, high + room)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", visible=False)
    values = [value_at(trial, path) for trial in shown]
    heights = [formatting.shown(goal.figure, trial.figures[goal.figure]) for trial in shown]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers:
        xs = [float(value) for value in values]
        _number_axis(axes, xs, even)
    else:
        xs = _categories(axes, values, heights)
    dot = _DOTS[len(trials) > 100]
    axes.scatter(xs, heights, s=dot**2, c=look.TRIAL, ec=look.GROUND, lw=0.6, clip_on=True)
    if shown[0] is trials[0]:
        axes.scatter(xs[:1], heights[:1], s=10.0**2, fc="none", ec=look.INK, lw=1.0)


def _number_axis(axes: Axes, xs: Sequence[float], even: bool) -> None:
    """Logarithmic where values span more than a factor of ten and were not drawn evenly."""
    if not even and min(xs) > 0 and max(xs) / min(xs) > 10:
        axes.set_xscale("log")
        wide = max(xs) / min(xs) > 100
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.margins(x=0.08)


def _categories(axes: Axes, values: Sequence[Any], heights: Sequence[float]) -> list[float]:
    """Name the categories under the axis; the places of the dots, set beside each other."""
    names = sorted({formatting.setting(value) for value in values})
    places = {name: place for place, name in enumerate(names)}
    low, high = axes.get_ylim()
    wide = 72 * _INCHES[0] * _PANEL[0] / len(names)
    tall = 72 * _INCHES[1] * _PANEL[1] / (high - low)
    columns = [places[formatting.setting(value)] for value in values]
    dot = _DOTS[len(values) > 100]
    moved = beside(
        [column * wide for column in columns], [y * tall for y in heights], dot, wide / 2 - dot
    )
    letters = max(int(wide / 4.6), 3)
    axes.set_xlim(-0.5, len(names) - 0.5)
    if len(names) <= 8:
        axes.set_xticks(range(len(names)), [formatting.short(name, letters) for name in names])
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} kinds")
    return [column + aside / wide for column, aside in zip(columns, moved, strict=True)]
