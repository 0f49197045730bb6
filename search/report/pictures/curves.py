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
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.axes_choice import plane
from stillhouse.search.report.core.label_layout import apart
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import Cast, Shared
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.statistics import ranking

HIGHLIGHTED = 3
_SHADES = (look.TRIAL, look.SECOND, look.INK)
_LABELS = 8  # most labels in a panel
_INCHES, _BOTTOM, _HEIGHT = (7.6, 3.7), 0.13, 0.76
_LABEL_GAP = 11.5  # points from line to line


@dataclass(frozen=True)
class Curve:
    """One student's or teacher's figure by epoch. An unnamed one stays in the background.

    A network without a curve, such as a ready one, has no epochs, but one value.
    """

    name: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]
    last: str  # the last value, worded
    colour: str = look.FAINT


def draw(outcome: Outcome, cast: Cast) -> Picture | None:
    """The picture; none where nothing was trained for more than one epoch."""
    figure = _followed(outcome, cast)
    students, teachers = _students(outcome, cast, figure), _teachers(cast, figure)
    if not any(curve.epochs for curve in students + teachers):
        return None
    picture = Figure(figsize=_INCHES)
    limits = _limits(students + teachers)
    left = picture.add_axes((0.06, _BOTTOM, 0.42, _HEIGHT), ylim=limits)
    right = picture.add_axes((0.63, _BOTTOM, 0.205, _HEIGHT), ylim=limits)
    _panel(left, students)
    _panel(right, teachers)
    if not any(curve.epochs for curve in teachers):
        right.set_xticks([])
        right.set_xlabel("")
    stopped = _stopped(left, cast, figure, limits[0])
    left.set_title(f"students: {formatting.axis(figure)}")
    right.set_title("teachers and assistants")
    right.tick_params("y", labelleft=False)
    ready = any(not curve.epochs for curve in teachers)
    return Picture("curves", "Learning curves", _caption(students, stopped, ready), picture)


def _caption(students: Sequence[Curve], stopped: bool, ready: bool) -> str:
    named = sum(bool(curve.name) for curve in students)
    told = f"The {named} best of {len(students)} students in colour" if named else "No student"
    if stopped:
        told += "; circles are where others were stopped early"
    told += "; dashed lines are networks that were ready or took one epoch" if ready else ""
    return f"{told}. Figures are of the last epoch."


def _followed(outcome: Outcome, cast: Cast) -> str:
    """The goal's figure if it was taken every epoch, else accuracy."""
    wanted = plane(outcome.goals).quality.figure
    records = [s.record for s in cast.students if s.record]
    taken = any(wanted in report for record in records for report in record.curve)
    return wanted if taken else "val_accuracy"


def _curve(name: str, record: Record, figure: str, colour: str = look.FAINT) -> Curve | None:
    points = [
        (report["epoch"], formatting.shown(figure, report[figure]))
        for report in record.curve
        if figure in report and "epoch" in report and math.isfinite(report[figure])
    ]
    if len(points) < 2:
        return None
    epochs, values = zip(*points, strict=True)
    last = formatting.number(figure, record.curve[-1].get(figure, math.nan))
    return Curve(name, epochs, values, last, colour)


def _students(outcome: Outcome, cast: Cast, figure: str) -> list[Curve]:
    best = [trial.number for trial in ranking(outcome)[:HIGHLIGHTED]]
    found = []
    for student in cast.students:
        if student.record:
            number = student.trial.number
            shown = number in best
            colour = _SHADES[best.index(number)] if shown else look.FAINT
            name = f"trial {number}" if shown else ""
            found.append(_curve(name, student.record, figure, colour))
    return [curve for curve in found if curve]


def _teachers(cast: Cast, figure: str) -> list[Curve]:
    """All of them; of those with one name the best is named."""
    shared = sorted(cast.shared.values(), key=lambda one: one.figure(figure), reverse=True)
    found, named = [], set[str]()
    for one in shared:
        name = "" if one.name in named or len(named) == _LABELS else one.name or one.label
        named.add(one.name)
        colour = look.TEACHER if one.root else look.ASSISTANT
        found.append(_curve(name, one.record, figure, colour) or _level(name, one, figure, colour))
    return [curve for curve in found if curve]


def _level(name: str, one: Shared, figure: str, colour: str) -> Curve | None:
    """A teacher without a curve, such as a ready one: a level at its figure."""
    value = one.figure(figure)
    if not math.isfinite(value):
        return None
    shown = formatting.shown(figure, value)
    return Curve(name, (), (shown,), formatting.number(figure, value), colour)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """From where the named curves are after a sixth of their epochs: all begin low alike."""
    named = [curve for curve in curves if curve.name] or curves
    values = [v for curve in named for v in curve.values[len(curve.values) // 6 :]]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _panel(axes: Axes, curves: Sequence[Curve]) -> None:
    faint = min(0.6, max(0.15, 15 / (len(curves) or 1)))
    for curve in curves:
        style: dict[str, Any] = {
            "color": curve.colour,
            "lw": 1.7 if curve.name else 0.8,
            "alpha": 1.0 if curve.name else faint,
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
    points = 72 * _INCHES[1] * _HEIGHT / (high - low)
    ends = [curve.values[-1] * points for curve in curves]
    names = formatting.fitted([curve.name for curve in curves], 10)
    for curve, end, moved in zip(curves, ends, apart(ends, _LABEL_GAP), strict=True):
        axes.annotate(
            f"{names[curve.name]}  {curve.last}",
            (1.0, curve.values[-1]),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, moved - end),
            textcoords="offset points",
            va="center_baseline",
            fontsize=8,
            annotation_clip=False,
            # The assistants' amber is too pale for letters.
            color=look.INK if curve.colour == look.ASSISTANT else curve.colour,
        )


def _stopped(axes: Axes, cast: Cast, figure: str, low: float) -> bool:
    """Circles where students were stopped early, those below the picture on its edge; if any."""
    ends = [
        (s.trial.figures["epoch"], max(formatting.shown(figure, s.figure(figure)), low))
        for s in cast.students
        if s.trial.state == "pruned" and {"epoch", figure} <= set(s.trial.figures)
    ]
    for epoch, value in ends:
        axes.scatter([epoch], [value], s=18, fc=look.GROUND, ec=look.FAINT, lw=0.9, zorder=4)
    return bool(ends)
