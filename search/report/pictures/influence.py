"""The importance of each searched value, and the goal over the most important ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from stillhouse.search.core import formatting
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.label_layout import robust_range, sideways_offsets
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome, TrialResult
from stillhouse.search.results.statistics import ranking

MAX_BARS, MAX_PANELS = 10, 4
_INCHES = (7.6, 3.9)
_DOT_SIZES = (5.0, 3.2)  # points across, and with more than a hundred trials
_PANEL_SIZE = (0.215, 0.335)  # of the picture


def draw(outcome: Outcome, space: Mapping[str, Any]) -> Picture | None:
    """The picture; none where importances are not known. ``space`` holds the searched domains."""
    goal = outcome.goals[0]
    shares = sorted(outcome.importances.items(), key=lambda item: -item[1])[:MAX_BARS]
    trials = [t for t in ranking(outcome) if math.isfinite(t.figures.get(goal.figure, math.nan))]
    if not (shares and trials):
        return None
    names = formatting.distinct_suffixes([path for path, _ in shares])
    figure = Figure(figsize=_INCHES)
    _draw_bars(figure.add_axes((0.24, 0.11, 0.17, 0.825)), shares, names)
    shown_paths = [
        p for p, _ in shares if any(trial_value(trial, p) is not None for trial in trials)
    ]
    for index, path in enumerate(shown_paths[:MAX_PANELS]):
        row, column = divmod(index, 2)
        box = (0.515 + 0.265 * column, 0.6 - 0.49 * row, *_PANEL_SIZE)
        axes = figure.add_axes(box)
        domain = space.get(path)
        is_uniform = isinstance(domain, Mapping) and "uniform" in domain
        _draw_panel(axes, trials, path, goal, is_uniform)
        axes.set_title(formatting.shorten(names[path], 24))
        axes.tick_params("y", labelleft=column == 0)
    return Picture("importances", "What mattered", _caption(outcome, shares, trials), figure)


def _caption(outcome: Outcome, shares: Sequence[Any], trials: Sequence[TrialResult]) -> str:
    caption = (
        "Left: each searched value's share in how "
        f"{formatting.metric_label(outcome.goals[0].figure)} "
        f"varies between trials. Right: {formatting.axis_label(outcome.goals[0].figure)} of the "
        f"{len(trials)} finished trials over the values of the first few; the best one is ringed."
    )
    if left_out := len(outcome.importances) - len(shares):
        caption += f" {left_out} less important values are not shown."
    return caption


def trial_value(trial: TrialResult, path: str) -> Any:
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


def _draw_bars(axes: Axes, shares: Sequence[tuple[str, float]], names: Mapping[str, str]) -> None:
    mpl_style.hide_frame(axes)
    rows = [-index for index in range(len(shares))]
    axes.barh(rows, [share for _, share in shares], height=0.42, color=mpl_style.TRIAL)
    axes.set_yticks(rows, [formatting.shorten(names[path], 26) for path, _ in shares])
    axes.tick_params("y", labelcolor=mpl_style.FOREGROUND)
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
            color=mpl_style.MUTED,
        )


def _draw_panel(
    axes: Axes, trials: Sequence[TrialResult], path: str, goal: Goal, is_uniform: bool
) -> None:
    """The goal over a searched value; names stand on the axis as categories."""
    applicable = [trial for trial in trials if trial_value(trial, path) is not None]
    ys = [formatting.plot_value(goal.figure, trial.figures[goal.figure]) for trial in trials]
    low, high = robust_range(ys, goal.maximize)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(axis="x", visible=False)
    values = [trial_value(trial, path) for trial in applicable]
    heights = [
        formatting.plot_value(goal.figure, trial.figures[goal.figure]) for trial in applicable
    ]
    is_numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if is_numeric:
        xs = [float(value) for value in values]
        _set_number_axis(axes, xs, is_uniform)
    else:
        xs = _set_category_axis(axes, values, heights)
    dot = _DOT_SIZES[len(trials) > 100]
    axes.scatter(
        xs, heights, s=dot**2, c=mpl_style.TRIAL, ec=mpl_style.BACKGROUND, lw=0.6, clip_on=True
    )
    if applicable[0] is trials[0]:
        axes.scatter(xs[:1], heights[:1], s=10.0**2, fc="none", ec=mpl_style.FOREGROUND, lw=1.0)


def _set_number_axis(axes: Axes, xs: Sequence[float], is_uniform: bool) -> None:
    """Logarithmic where values span more than a factor of ten and were not drawn evenly."""
    if not is_uniform and min(xs) > 0 and max(xs) / min(xs) > 10:
        axes.set_xscale("log")
        is_wide = max(xs) / min(xs) > 100
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if is_wide else (1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.margins(x=0.08)


def _set_category_axis(axes: Axes, values: Sequence[Any], heights: Sequence[float]) -> list[float]:
    """Name the categories under the axis; the places of the dots, set beside each other."""
    names = sorted({formatting.format_setting(value) for value in values})
    positions = {name: index for index, name in enumerate(names)}
    low, high = axes.get_ylim()
    points_per_category = 72 * _INCHES[0] * _PANEL_SIZE[0] / len(names)
    points_per_y = 72 * _INCHES[1] * _PANEL_SIZE[1] / (high - low)
    columns = [positions[formatting.format_setting(value)] for value in values]
    dot = _DOT_SIZES[len(values) > 100]
    offsets = sideways_offsets(
        [column * points_per_category for column in columns],
        [y * points_per_y for y in heights],
        dot,
        points_per_category / 2 - dot,
    )
    max_letters = max(int(points_per_category / 4.6), 3)
    axes.set_xlim(-0.5, len(names) - 0.5)
    if len(names) <= 8:
        axes.set_xticks(
            range(len(names)), [formatting.shorten(name, max_letters) for name in names]
        )
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} kinds")
    return [
        column + offset / points_per_category
        for column, offset in zip(columns, offsets, strict=True)
    ]
