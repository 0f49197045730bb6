"""Accuracy against size: every trial, teachers and assistants, the Pareto front, the baselines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from search.outcome import Outcome, Repeated
from search.report import picture as look
from search.report import wording
from search.report.cast import Cast, Shared, Student
from search.report.picture import Picture
from search.report.plane import Plane, front, plane
from search.report.seeds import COLOURS, compared
from search.report.spacing import beside, labelled, worth_showing

_INCHES = (7.6, 4.4)
_FRAME = (0.06, 0.12, 0.92, 0.77)  # left, bottom, width, height of the axes in the picture
_DOTS = (5.5, 3.8)  # points across, and with more than a hundred students


def draw(outcome: Outcome, cast: Cast) -> Picture | None:
    """The picture; none where no student has both figures."""
    spanned = plane(outcome.goals)
    students = [s for s in cast.students if spanned.holds(s)]
    shared = [s for s in cast.shared.values() if spanned.holds(s)]
    repeats = {role: r for role, r in compared(outcome).items() if _measured(r, spanned)}
    if not students:
        return None
    best, figure = front(students, spanned), Figure(figsize=_INCHES)
    canvas = _Canvas(figure, spanned)
    canvas.stake_out(students, shared, list(repeats.values()))
    canvas.staircase(best)
    canvas.students(students)
    for one in shared:
        canvas.teacher(one)
    canvas.name_teachers(shared)
    for role, repeated in repeats.items():
        canvas.repeated(role, repeated)
    canvas.legend()
    quality, cost = wording.name(spanned.quality.figure), wording.name(spanned.cost.figure)
    title = f"{quality} against {cost}"
    caption = _caption(cast, students, best, canvas)
    return Picture("size", title[0].upper() + title[1:], caption, figure)


def _measured(repeated: Repeated, plane: Plane) -> bool:
    wanted = {plane.cost.figure, plane.quality.figure}
    return all(wanted <= set(record.figures) for record in repeated.records)


def _caption(
    cast: Cast, students: Sequence[Student], best: Sequence[Student], canvas: _Canvas
) -> str:
    told = [f"{len(students)} students"]
    if missing := len(cast.students) - len(students):
        told.append(f"{missing} more without these figures are not shown")
    if len(best) > 1:
        told.append(f"the line joins the {len(best)} that none beats in both")
    told.append("dots of one size lie beside each other")
    if canvas.beyond:
        told.append(f"the {canvas.beyond} triangles at the edge lie beyond it")
    if canvas.squares:
        told.append("squares, set to the right, are means over seeds with one standard deviation")
    return "; ".join(told) + "."


class _Canvas:
    """The axes. Their limits are fixed first: marks are set apart by points, not by figures."""

    def __init__(self, figure: Figure, plane: Plane) -> None:
        self.plane = plane
        self.axes = figure.add_axes(_FRAME)
        self._legend: dict[str, Any] = {}
        self.beyond = self.squares = 0
        self._taken: dict[float, float] = {}  # cost -> points to the right that marks reach

    def stake_out(
        self, students: Sequence[Student], shared: Sequence[Shared], repeats: Sequence[Repeated]
    ) -> None:
        """Limits, scales and names of both axes."""
        both: list[Student | Shared] = [*students, *shared]
        xs = [self._place(one)[0] for one in both]
        self._log = min(xs) > 0 and max(xs) / min(xs) > 3
        left, right = self._scaled(min(xs)), self._scaled(max(xs))
        room = 0.14 * (right - left) or 0.2 * abs(right) or 1.0
        self._wide = 72 * _INCHES[0] * _FRAME[2] / (right - left + 2 * room)
        self._right = right + room
        if self._log:
            self.axes.set_xscale("log")
        self.axes.set_xlim(self._unscaled(left - room), self._unscaled(right + room))

        figure = self.plane.quality.figure
        others = [self._place(one)[1] for one in shared]
        others += [wording.shown(figure, v) for r in repeats for v in r.values(figure)]
        low, high = worth_showing(
            [self._place(s)[1] for s in students if s.trial.state == "finished"] + others
            or [self._place(s)[1] for s in students],
            self.plane.quality.maximize,
        )
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
        self._tall = 72 * _INCHES[1] * _FRAME[3] / (high - low + 2 * margin)
        self._edges = low - margin, high + margin
        self.axes.set_ylim(*self._edges)
        self._name_axes()

    def _name_axes(self) -> None:
        cost, axes = self.plane.cost.figure, self.axes
        axes.set_xlabel(wording.axis(cost) + (", log scale" if self._log else ""))
        axes.set_title(wording.axis(self.plane.quality.figure), color=look.MUTED, pad=24)
        if self._log:
            low, high = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 500 else (1,)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: wording.compact(x)))
        axes.grid(axis="x", visible=False)

    def _place(self, one: Student | Shared) -> tuple[float, float]:
        cost, quality = self.plane.place(one)
        shown = wording.shown
        return shown(self.plane.cost.figure, cost), shown(self.plane.quality.figure, quality)

    def _scaled(self, x: float) -> float:
        return math.log10(x) if self._log else x

    def _unscaled(self, x: float) -> float:
        return float(10**x) if self._log else x

    def _aside(self, x: float, points: float) -> float:
        """``x``, so many points further right."""
        return self._unscaled(self._scaled(x) + points / self._wide)

    def staircase(self, best: Sequence[Student]) -> None:
        """The Pareto front: nothing tried lies beyond it."""
        if len(best) > 1:
            xs, ys = zip(*map(self._place, best), strict=True)
            (line,) = self.axes.plot(
                xs, ys, drawstyle="steps-post", color=look.TRIAL, lw=1.2, alpha=0.5
            )
            self._legend["Pareto front"] = line

    def students(self, students: Sequence[Student]) -> None:
        """Dots; those of one size beside each other, those that did not finish hollow."""
        low, high = self._edges
        dot = _DOTS[len(students) > 100]
        inset = 0.5 * dot / self._tall
        places = [self._place(s) for s in students]
        ys = [min(max(y, low + inset), high - inset) for _, y in places]
        heights = [y * self._tall for y in ys]
        offsets = beside([self._scaled(x) * self._wide for x, _ in places], heights, dot)
        groups: defaultdict[tuple[bool, str], list[tuple[float, float]]] = defaultdict(list)
        for student, (x, true), y, offset in zip(students, places, ys, offsets, strict=True):
            marker = "o" if y == true else "v" if y > true else "^"
            groups[student.trial.state == "finished", marker].append((self._aside(x, offset), y))
            if marker == "o":
                self._taken[x] = max(self._taken.get(x, 0.0), offset)
            else:
                self.beyond += 1
        for (done, marker), marks in groups.items():
            self._dots(marks, dot, done, marker)

    def _dots(
        self, places: Sequence[tuple[float, float]], dot: float, done: bool, marker: str
    ) -> None:
        fill, edge = (look.TRIAL, look.GROUND) if done else (look.GROUND, look.FAINT)
        xs, ys = zip(*places, strict=True)
        mark = self.axes.scatter(
            xs, ys, s=dot**2, fc=fill, ec=edge, lw=0.7, marker=marker, zorder=3
        )
        if marker == "o":
            self._legend["trial" if done else "stopped early"] = mark

    def teacher(self, one: Shared) -> None:
        """A large triangle for a teacher, a diamond for an assistant."""
        x, y = self._place(one)
        marker, colour, size = ("^", look.TEACHER, 56) if one.root else ("D", look.ASSISTANT, 30)
        mark = self.axes.scatter([x], [y], s=size, c=colour, marker=marker, ec=look.GROUND, lw=0.7)
        self._legend["teacher" if one.root else "assistant"] = mark

    def name_teachers(self, shared: Sequence[Shared]) -> None:
        """Labels, one a name: several chains hold assistants of one name."""
        best = {one.name: one for one in sorted(shared, key=lambda one: self._place(one)[1])}
        names = list(wording.fitted(best, 16).values())
        places = [self._place(one) for one in best.values()]
        marks = [
            (self._scaled(x) * self._wide, y * self._tall, 5.0 * len(name))
            for (x, y), name in zip(places, names, strict=True)
        ]
        others = [
            (self._scaled(x) * self._wide, y * self._tall)
            for x, y in (self._place(one) for one in shared if one not in best.values())
        ]
        sides = labelled(marks, 10.0, others)
        for name, place, moved in zip(names, places, sides, strict=True):
            self.axes.annotate(
                name,
                place,
                xytext=moved,
                textcoords="offset points",
                ha="center",
                va="center_baseline",
                fontsize=8,
            )

    def repeated(self, role: str, repeated: Repeated) -> None:
        """Mean and standard deviation over seeds, to the right of the trials of that size."""
        quality, cost = self.plane.quality.figure, self.plane.cost.figure
        x = wording.shown(cost, repeated.mean(cost))
        self._taken[x] = self._taken.get(x, 0.0) + 13
        self.squares += 1
        self._legend[role] = self.axes.errorbar(
            [self._aside(x, self._taken[x])],
            [wording.shown(quality, repeated.mean(quality))],
            yerr=[wording.shown(quality, repeated.spread(quality))],
            fmt="s",
            ms=6,
            color=COLOURS[role],
            mec=look.GROUND,
            mew=0.7,
            elinewidth=1.5,
            capsize=3,
            zorder=4,
        )

    def legend(self) -> None:
        """One line above the axes."""
        self.axes.legend(
            self._legend.values(),
            self._legend.keys(),
            loc="lower left",
            bbox_to_anchor=(0.0, 1.015),
            ncols=8,
            columnspacing=1.2,
        )
