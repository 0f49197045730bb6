"""The axes of accuracy against size, and every kind of mark in them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.axes_choice import Plane
from stillhouse.search.report.core.label_layout import Box, aside, beside, labelled, worth_showing
from stillhouse.search.report.core.participants import Shared, Student
from stillhouse.search.report.core.roles import BEST, ROLES, Role
from stillhouse.search.results.outcome import Repeated

_WIDE, _BELOW, _AXES, _ABOVE = 7.6, 0.53, 3.4, 0.47  # inches: all across; downwards from the axes
_LINE = 0.19  # inches that another line of the legend takes
_LEFT, _ACROSS = 0.06, 0.92  # where the axes begin in the picture, and their width
_NAMES = 7  # names in a line of the legend
_DOTS = (5.5, 3.8)  # points across, and with more than a hundred students
_CROWD = 1000
"""Students beyond which dots may cover each other: to set them apart takes their square."""


class Canvas:
    """The axes. Their limits are fixed first: marks are set apart by points, not by figures."""

    def __init__(self, figure: Figure, plane: Plane, lines: int) -> None:
        self.plane = plane
        high = _BELOW + _AXES + _ABOVE + (lines - 1) * _LINE
        figure.set_size_inches(_WIDE, high)
        self.axes = figure.add_axes((_LEFT, _BELOW / high, _ACROSS, _AXES / high))
        self._lines = lines
        self._legend: dict[str, Any] = {}
        self.beyond = self.squares = self.low = 0
        self._taken: list[Box] = []  # what marks cover, in points

    def stake_out(
        self, students: Sequence[Student], shared: Sequence[Shared], repeats: Sequence[Repeated]
    ) -> None:
        """Limits, scales and names of both axes."""
        both: list[Student | Shared] = [*students, *shared]
        xs = [self._place(one)[0] for one in both]
        xs += [self._settled_place(repeated)[0] for repeated in repeats]
        self._log = min(xs) > 0 and max(xs) / min(xs) > 3
        left, right = self._scaled(min(xs)), self._scaled(max(xs))
        room = 0.14 * (right - left) or 0.2 * abs(right) or 1.0
        self._wide = 72 * _WIDE * _ACROSS / (right - left + 2 * room)
        self._right = right + room
        if self._log:
            self.axes.set_xscale("log")
        self.axes.set_xlim(self._unscaled(left - room), self._unscaled(right + room))

        figure = self.plane.quality.figure
        others = [self._place(one)[1] for one in shared if one.record.kind != "assemble"]
        some = [r for r in repeats if r.role != "assembled"]
        ends = [r.mean(figure) + sign * r.spread(figure) for r in some for sign in (-1, 1)]
        others += [formatting.shown(figure, v) for v in ends]
        others += [formatting.shown(figure, v) for r in some for v in r.values(figure)]
        low, high = worth_showing(
            [self._place(s)[1] for s in students if s.trial.state == "finished"] + others
            or [self._place(s)[1] for s in students],
            self.plane.quality.maximize,
        )
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
        self._tall = 72 * _AXES / (high - low + 2 * margin)
        self._edges = low - margin, high + margin
        self.axes.set_ylim(*self._edges)
        self._name_axes()

    def _name_axes(self) -> None:
        cost, axes = self.plane.cost.figure, self.axes
        axes.set_xlabel(formatting.axis(cost) + (", log scale" if self._log else ""))
        axes.set_title(
            formatting.axis(self.plane.quality.figure),
            color=look.MUTED,
            pad=24 + 72 * _LINE * (self._lines - 1),
        )
        if self._log:
            low, high = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=_ticks(high / low)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: formatting.compact(x)))
        axes.grid(axis="x", visible=False)

    def _place(self, one: Student | Shared) -> tuple[float, float]:
        cost, quality = self.plane.place(one)
        shown = formatting.shown
        return shown(self.plane.cost.figure, cost), shown(self.plane.quality.figure, quality)

    def _settled_place(self, repeated: Repeated) -> tuple[float, float]:
        cost, quality = self.plane.cost.figure, self.plane.quality.figure
        shown = formatting.shown
        return shown(cost, repeated.mean(cost)), shown(quality, repeated.mean(quality))

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
        offsets = [0.0] * len(places)
        if len(places) <= _CROWD:
            offsets = beside([self._scaled(x) * self._wide for x, _ in places], heights, dot)
        groups: defaultdict[tuple[bool, str], list[tuple[float, float]]] = defaultdict(list)
        for student, (x, true), y, offset in zip(students, places, ys, offsets, strict=True):
            marker = "o" if y == true else "v" if y > true else "^"
            groups[student.trial.state == "finished", marker].append((self._aside(x, offset), y))
            middle = self._scaled(x) * self._wide + offset
            half = 0.5 * dot
            place = y * self._tall
            self._taken.append((middle - half, place - half, middle + half, place + half))
            self.beyond += marker != "o"
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
        """A large triangle for a teacher, a diamond for an assistant, a ring for an assembly."""
        x, y = self._place(one)
        if one.record.kind == "assemble":
            ring = self.axes.scatter(
                [x], [y], s=26, fc=look.GROUND, ec=look.TRIAL, lw=1.2, marker="o", zorder=2
            )
            self._legend["assembled"] = ring
            return
        marker, colour, size = ("^", look.TEACHER, 56) if one.root else ("D", look.ASSISTANT, 30)
        mark = self.axes.scatter([x], [y], s=size, c=colour, marker=marker, ec=look.GROUND, lw=0.7)
        self._legend["teacher" if one.root else "assistant"] = mark

    def name_teachers(self, shared: Sequence[Shared]) -> None:
        """Labels, one a name: several chains hold assistants of one name."""
        best = {one.name: one for one in sorted(shared, key=lambda one: self._place(one)[1])}
        names = list(formatting.fitted(best, 16).values())
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

    def repeated(self, name: str, repeated: Repeated) -> None:
        """Mean and standard deviation over seeds, to the right of what it would cover."""
        role = ROLES.get(name, BEST)
        quality = self.plane.quality.figure
        x, y = self._settled_place(repeated)
        spread = formatting.shown(quality, repeated.spread(quality))
        if role.marker == "o" and not self._edges[0] <= y <= self._edges[1]:
            self._off(x, y, role)
            return
        self.squares += 1
        moved = self._free(x, y, 0.0 if role.marker == "o" else spread)
        hollow = role.marker == "o"
        self._legend[name] = self.axes.errorbar(
            [self._aside(x, moved)],
            [y],
            yerr=[spread] if len(repeated.records) > 1 else None,
            fmt=role.marker,
            ms=6 if role.marker in "soD" else 8,
            color=role.colour,
            mfc=look.GROUND if hollow else role.colour,
            mec=role.colour if hollow else look.GROUND,
            mew=1.4 if hollow else 0.7,
            elinewidth=1.5,
            capsize=3,
            zorder=4,
        )

    def _free(self, x: float, y: float, spread: float) -> float:
        """Points to the right at which a mark with its bar covers nothing."""
        middle, half = self._scaled(x) * self._wide, max(spread * self._tall, 4.0) + 1.0
        box = middle - 5.0, y * self._tall - half, middle + 5.0, y * self._tall + half
        moved = aside(box, self._taken)
        self._taken.append((box[0] + moved, box[1], box[2] + moved, box[3]))
        return moved

    def _off(self, x: float, y: float, role: Role) -> None:
        """An assembly beyond the axes: a hollow triangle at the edge, with its figure."""
        low, high = self._edges
        below = y < low
        edge = low + 6 / self._tall if below else high - 6 / self._tall
        self.low += 1
        moved = self._free(x, edge, 0.0)
        self._legend["assembled"] = self.axes.scatter(
            [self._aside(x, moved)],
            [edge],
            s=34,
            fc=look.GROUND,
            ec=role.colour,
            lw=1.4,
            marker="v" if below else "^",
            zorder=4,
        )
        self.axes.annotate(
            f"{y:.1f}" if formatting.is_share(self.plane.quality.figure) else f"{y:.3g}",
            (self._aside(x, moved), edge),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            fontsize=7.5,
            color=look.MUTED,
        )

    def legend(self) -> None:
        """A line or two above the axes."""
        self.axes.legend(
            self._legend.values(),
            self._legend.keys(),
            loc="lower left",
            bbox_to_anchor=(0.0, 1.015),
            ncols=8 if self._lines == 1 else _NAMES,
            columnspacing=1.2,
        )


def _ticks(reach: float) -> tuple[float, ...]:
    """Multiples of a power of ten that are named where the axis spans so many times its start."""
    if reach < 8:
        return (1, 1.5, 2, 3, 5, 7)
    return (1, 2, 5) if reach < 500 else (1,)
