"""Learning curves by epoch: students on the left, their teachers and assistants on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.artifacts.record import Record
from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.axes_choice import choose_metric_axes
from stillhouse.search.report.core.label_layout import spread_apart
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import Participants, SharedStage
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.statistics import ranking

NUM_HIGHLIGHTED = 3
_HIGHLIGHT_COLOURS = (mpl_style.TRIAL, mpl_style.SECOND, mpl_style.FOREGROUND)
_MAX_LABELS = 8  # most labels in a panel
_INCHES, _BOTTOM, _HEIGHT = (7.6, 3.7), 0.13, 0.76
_LABEL_POINTS = 11.5  # points from line to line


@dataclass(frozen=True)
class Curve:
    """One student's or teacher's figure by epoch. An unnamed one stays in the background.

    A network without a curve, such as a ready one, has no epochs, but one value.
    """

    name: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]
    last_text: str  # the last value, worded
    colour: str = mpl_style.FAINT


def draw(outcome: Outcome, participants: Participants) -> Picture | None:
    """The picture; none where nothing was trained for more than one epoch."""
    metric = _shown_metric(outcome, participants)
    students, teachers = (
        _student_curves(outcome, participants, metric),
        _teacher_curves(participants, metric),
    )
    if not any(curve.epochs for curve in students + teachers):
        return None
    figure = Figure(figsize=_INCHES)
    limits = _axis_limits(students + teachers)
    left = figure.add_axes((0.06, _BOTTOM, 0.42, _HEIGHT), ylim=limits)
    right = figure.add_axes((0.63, _BOTTOM, 0.205, _HEIGHT), ylim=limits)
    _draw_panel(left, students)
    _draw_panel(right, teachers)
    if not any(curve.epochs for curve in teachers):
        right.set_xticks([])
        right.set_xlabel("")
    has_stopped = _draw_stopped(left, participants, metric, limits[0])
    left.set_title(f"students: {formatting.axis_label(metric)}")
    right.set_title("teachers and assistants")
    right.tick_params("y", labelleft=False)
    has_ready = any(not curve.epochs for curve in teachers)
    return Picture("curves", "Learning curves", _caption(students, has_stopped, has_ready), figure)


def _caption(students: Sequence[Curve], has_stopped: bool, has_ready: bool) -> str:
    num_named = sum(bool(curve.name) for curve in students)
    caption = (
        f"The {num_named} best of {len(students)} students in colour" if num_named else "No student"
    )
    if has_stopped:
        caption += "; circles are where others were stopped early"
    caption += "; dashed lines are networks that were ready or took one epoch" if has_ready else ""
    return f"{caption}. Figures are of the last epoch."


def _shown_metric(outcome: Outcome, participants: Participants) -> str:
    """The goal's figure if it was taken every epoch, else accuracy."""
    metric = choose_metric_axes(outcome.goals).quality.figure
    records = [s.record for s in participants.students if s.record]
    is_recorded = any(metric in epoch for record in records for epoch in record.curve)
    return metric if is_recorded else "val_accuracy"


def _build_curve(
    name: str, record: Record, metric: str, colour: str = mpl_style.FAINT
) -> Curve | None:
    points = [
        (epoch["epoch"], formatting.plot_value(metric, epoch[metric]))
        for epoch in record.curve
        if metric in epoch and "epoch" in epoch and math.isfinite(epoch[metric])
    ]
    if len(points) < 2:
        return None
    epochs, values = zip(*points, strict=True)
    last = formatting.format_number(metric, record.curve[-1].get(metric, math.nan))
    return Curve(name, epochs, values, last, colour)


def _student_curves(outcome: Outcome, participants: Participants, metric: str) -> list[Curve]:
    best_numbers = [trial.number for trial in ranking(outcome)[:NUM_HIGHLIGHTED]]
    curves = []
    for student in participants.students:
        if student.record:
            number = student.trial.number
            is_highlighted = number in best_numbers
            colour = (
                _HIGHLIGHT_COLOURS[best_numbers.index(number)]
                if is_highlighted
                else mpl_style.FAINT
            )
            name = f"trial {number}" if is_highlighted else ""
            curves.append(_build_curve(name, student.record, metric, colour))
    return [curve for curve in curves if curve]


def _teacher_curves(participants: Participants, metric: str) -> list[Curve]:
    """All of them; of those with one name the best is named."""
    shared = sorted(
        participants.shared.values(), key=lambda stage: stage.metric(metric), reverse=True
    )
    curves, names_used = [], set[str]()
    for stage in shared:
        name = (
            ""
            if stage.network in names_used or len(names_used) == _MAX_LABELS
            else stage.network or stage.label
        )
        names_used.add(stage.network)
        colour = mpl_style.TEACHER if stage.is_teacher else mpl_style.ASSISTANT
        curves.append(
            _build_curve(name, stage.record, metric, colour)
            or _level_curve(name, stage, metric, colour)
        )
    return [curve for curve in curves if curve]


def _level_curve(name: str, stage: SharedStage, metric: str, colour: str) -> Curve | None:
    """A teacher without a curve, such as a ready one: a level at its figure."""
    value = stage.metric(metric)
    if not math.isfinite(value):
        return None
    shown_value = formatting.plot_value(metric, value)
    return Curve(name, (), (shown_value,), formatting.format_number(metric, value), colour)


def _axis_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """From where the named curves are after a sixth of their epochs: all begin low alike."""
    named = [curve for curve in curves if curve.name] or curves
    values = [v for curve in named for v in curve.values[len(curve.values) // 6 :]]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _draw_panel(axes: Axes, curves: Sequence[Curve]) -> None:
    faint_alpha = min(0.6, max(0.15, 15 / (len(curves) or 1)))
    for curve in curves:
        style: dict[str, Any] = {
            "color": curve.colour,
            "lw": 1.7 if curve.name else 0.8,
            "alpha": 1.0 if curve.name else faint_alpha,
            "zorder": 3 if curve.name else 2,
        }
        if curve.epochs:
            axes.plot(curve.epochs, curve.values, **style)
        else:
            axes.axhline(curve.values[0], linestyle="--", **style)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.02)
    _label_ends(axes, [curve for curve in curves if curve.name])


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Names and last values behind the curves' ends, set apart from each other."""
    low, high = axes.get_ylim()
    points_per_y = 72 * _INCHES[1] * _HEIGHT / (high - low)
    ends = [curve.values[-1] * points_per_y for curve in curves]
    names = formatting.fit_names([curve.name for curve in curves], 10)
    for curve, end, label_y in zip(curves, ends, spread_apart(ends, _LABEL_POINTS), strict=True):
        axes.annotate(
            f"{names[curve.name]}  {curve.last_text}",
            (1.0, curve.values[-1]),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, label_y - end),
            textcoords="offset points",
            va="center_baseline",
            fontsize=8,
            annotation_clip=False,
            # The assistants' amber is too pale for letters.
            color=mpl_style.FOREGROUND if curve.colour == mpl_style.ASSISTANT else curve.colour,
        )


def _draw_stopped(axes: Axes, participants: Participants, metric: str, low: float) -> bool:
    """Circles where students were stopped early, those below the picture on its edge; if any."""
    ends = [
        (s.trial.figures["epoch"], max(formatting.plot_value(metric, s.metric(metric)), low))
        for s in participants.students
        if s.trial.state == "pruned" and {"epoch", metric} <= set(s.trial.figures)
    ]
    for epoch, value in ends:
        axes.scatter(
            [epoch], [value], s=18, fc=mpl_style.BACKGROUND, ec=mpl_style.FAINT, lw=0.9, zorder=4
        )
    return bool(ends)
