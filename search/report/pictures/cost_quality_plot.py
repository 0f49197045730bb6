"""The axes of accuracy against size, and every kind of mark in them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.axes_choice import MetricAxes
from stillhouse.search.report.core.label_layout import (
    Box,
    label_offsets,
    offset_to_free_space,
    robust_range,
    sideways_offsets,
)
from stillhouse.search.report.core.participants import SharedStage, Student
from stillhouse.search.report.core.roles import BEST_STYLE, ROLE_STYLES, RoleStyle
from stillhouse.search.results.outcome import SeedRuns

_WIDTH, _BELOW, _AXES, _ABOVE = 7.6, 0.53, 3.4, 0.47  # inches: all across; downwards from the axes
_LEGEND_LINE = 0.19  # inches that another line of the legend takes
_LEFT, _AXES_WIDTH = 0.06, 0.92  # where the axes begin in the picture, and their width
_LEGEND_COLUMNS = 7  # names in a line of the legend
_DOT_SIZES = (5.5, 3.8)  # points across, and with more than a hundred students
_MAX_SEPARATED = 1000
"""Students beyond which dots may cover each other: to set them apart takes their square."""


class CostQualityPlot:
    """The axes. Their limits are fixed first: marks are set apart by points, not by figures."""

    def __init__(self, figure: Figure, metric_axes: MetricAxes, legend_lines: int) -> None:
        self.metric_axes = metric_axes
        height = _BELOW + _AXES + _ABOVE + (legend_lines - 1) * _LEGEND_LINE
        figure.set_size_inches(_WIDTH, height)
        self.axes = figure.add_axes((_LEFT, _BELOW / height, _AXES_WIDTH, _AXES / height))
        self._legend_lines = legend_lines
        self._legend_handles: dict[str, Any] = {}
        self.num_beyond = self.num_seed_marks = self.num_assemblies_beyond = 0
        self._occupied: list[Box] = []  # what marks cover, in points

    def set_limits(
        self,
        students: Sequence[Student],
        shared: Sequence[SharedStage],
        all_seed_runs: Sequence[SeedRuns],
    ) -> None:
        """Limits, scales and names of both axes."""
        marks: list[Student | SharedStage] = [*students, *shared]
        xs = [self._point(mark)[0] for mark in marks]
        xs += [self._mean_point(seed_runs)[0] for seed_runs in all_seed_runs]
        self._is_log = min(xs) > 0 and max(xs) / min(xs) > 3
        left, right = self._to_linear(min(xs)), self._to_linear(max(xs))
        x_margin = 0.14 * (right - left) or 0.2 * abs(right) or 1.0
        self._points_per_x = 72 * _WIDTH * _AXES_WIDTH / (right - left + 2 * x_margin)
        self._right = right + x_margin
        if self._is_log:
            self.axes.set_xscale("log")
        self.axes.set_xlim(self._from_linear(left - x_margin), self._from_linear(right + x_margin))

        metric = self.metric_axes.quality.figure
        other_values = [self._point(mark)[1] for mark in shared if mark.record.kind != "assemble"]
        tuned_runs = [r for r in all_seed_runs if r.role != "assembled"]
        ends = [r.mean(metric) + sign * r.spread(metric) for r in tuned_runs for sign in (-1, 1)]
        other_values += [formatting.plot_value(metric, v) for v in ends]
        other_values += [
            formatting.plot_value(metric, v) for r in tuned_runs for v in r.values(metric)
        ]
        low, high = robust_range(
            [self._point(s)[1] for s in students if s.trial.state == "finished"] + other_values
            or [self._point(s)[1] for s in students],
            self.metric_axes.quality.maximize,
        )
        y_margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
        self._points_per_y = 72 * _AXES / (high - low + 2 * y_margin)
        self._y_limits = low - y_margin, high + y_margin
        self.axes.set_ylim(*self._y_limits)
        self._name_axes()

    def _name_axes(self) -> None:
        cost, axes = self.metric_axes.cost.figure, self.axes
        axes.set_xlabel(formatting.axis_label(cost) + (", log scale" if self._is_log else ""))
        axes.set_title(
            formatting.axis_label(self.metric_axes.quality.figure),
            color=mpl_style.MUTED,
            pad=24 + 72 * _LEGEND_LINE * (self._legend_lines - 1),
        )
        if self._is_log:
            low, high = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=_tick_multiples(high / low)))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: formatting.format_compact(x)))
        axes.grid(axis="x", visible=False)

    def _point(self, stage: Student | SharedStage) -> tuple[float, float]:
        cost, quality = self.metric_axes.point(stage)
        plot_value = formatting.plot_value
        return plot_value(self.metric_axes.cost.figure, cost), plot_value(
            self.metric_axes.quality.figure, quality
        )

    def _mean_point(self, seed_runs: SeedRuns) -> tuple[float, float]:
        cost, quality = self.metric_axes.cost.figure, self.metric_axes.quality.figure
        plot_value = formatting.plot_value
        return plot_value(cost, seed_runs.mean(cost)), plot_value(quality, seed_runs.mean(quality))

    def _to_linear(self, x: float) -> float:
        return math.log10(x) if self._is_log else x

    def _from_linear(self, x: float) -> float:
        return float(10**x) if self._is_log else x

    def _shift_right(self, x: float, points: float) -> float:
        """``x``, so many points further right."""
        return self._from_linear(self._to_linear(x) + points / self._points_per_x)

    def draw_pareto_front(self, front_students: Sequence[Student]) -> None:
        """The Pareto front: nothing tried lies beyond it."""
        if len(front_students) > 1:
            xs, ys = zip(*map(self._point, front_students), strict=True)
            (line,) = self.axes.plot(
                xs, ys, drawstyle="steps-post", color=mpl_style.TRIAL, lw=1.2, alpha=0.5
            )
            self._legend_handles["Pareto front"] = line

    def draw_students(self, students: Sequence[Student]) -> None:
        """Dots; those of one size beside each other, those that did not finish hollow."""
        low, high = self._y_limits
        dot = _DOT_SIZES[len(students) > 100]
        inset = 0.5 * dot / self._points_per_y
        points = [self._point(s) for s in students]
        ys = [min(max(y, low + inset), high - inset) for _, y in points]
        heights = [y * self._points_per_y for y in ys]
        offsets = [0.0] * len(points)
        if len(points) <= _MAX_SEPARATED:
            offsets = sideways_offsets(
                [self._to_linear(x) * self._points_per_x for x, _ in points], heights, dot
            )
        groups: defaultdict[tuple[bool, str], list[tuple[float, float]]] = defaultdict(list)
        for student, (x, true_y), y, offset in zip(students, points, ys, offsets, strict=True):
            marker = "o" if y == true_y else "v" if y > true_y else "^"
            groups[student.trial.state == "finished", marker].append(
                (self._shift_right(x, offset), y)
            )
            middle = self._to_linear(x) * self._points_per_x + offset
            half = 0.5 * dot
            mark_y = y * self._points_per_y
            self._occupied.append((middle - half, mark_y - half, middle + half, mark_y + half))
            self.num_beyond += marker != "o"
        for (done, marker), marks in groups.items():
            self._draw_dots(marks, dot, done, marker)

    def _draw_dots(
        self, points: Sequence[tuple[float, float]], dot: float, done: bool, marker: str
    ) -> None:
        fill, edge = (
            (mpl_style.TRIAL, mpl_style.BACKGROUND)
            if done
            else (mpl_style.BACKGROUND, mpl_style.FAINT)
        )
        xs, ys = zip(*points, strict=True)
        mark = self.axes.scatter(
            xs, ys, s=dot**2, fc=fill, ec=edge, lw=0.7, marker=marker, zorder=3
        )
        if marker == "o":
            self._legend_handles["trial" if done else "stopped early"] = mark

    def draw_teacher(self, stage: SharedStage) -> None:
        """A large triangle for a teacher, a diamond for an assistant, a ring for an assembly."""
        x, y = self._point(stage)
        if stage.record.kind == "assemble":
            ring = self.axes.scatter(
                [x],
                [y],
                s=26,
                fc=mpl_style.BACKGROUND,
                ec=mpl_style.TRIAL,
                lw=1.2,
                marker="o",
                zorder=2,
            )
            self._legend_handles["assembled"] = ring
            return
        marker, colour, size = (
            ("^", mpl_style.TEACHER, 56) if stage.is_teacher else ("D", mpl_style.ASSISTANT, 30)
        )
        mark = self.axes.scatter(
            [x], [y], s=size, c=colour, marker=marker, ec=mpl_style.BACKGROUND, lw=0.7
        )
        self._legend_handles["teacher" if stage.is_teacher else "assistant"] = mark

    def label_teachers(self, shared: Sequence[SharedStage]) -> None:
        """Labels, one a name: several chains hold assistants of one name."""
        best_by_name = {
            stage.network: stage
            for stage in sorted(shared, key=lambda stage: self._point(stage)[1])
        }
        names = list(formatting.fit_names(best_by_name, 16).values())
        points = [self._point(stage) for stage in best_by_name.values()]
        marks = [
            (self._to_linear(x) * self._points_per_x, y * self._points_per_y, 5.0 * len(name))
            for (x, y), name in zip(points, names, strict=True)
        ]
        others = [
            (self._to_linear(x) * self._points_per_x, y * self._points_per_y)
            for x, y in (
                self._point(stage) for stage in shared if stage not in best_by_name.values()
            )
        ]
        offsets = label_offsets(marks, 10.0, others)
        for name, point, offset in zip(names, points, offsets, strict=True):
            self.axes.annotate(
                name,
                point,
                xytext=offset,
                textcoords="offset points",
                ha="center",
                va="center_baseline",
                fontsize=8,
            )

    def draw_seed_runs(self, name: str, seed_runs: SeedRuns) -> None:
        """Mean and standard deviation over seeds, to the right of what it would cover."""
        role = ROLE_STYLES.get(name, BEST_STYLE)
        metric = self.metric_axes.quality.figure
        x, y = self._mean_point(seed_runs)
        spread = formatting.plot_value(metric, seed_runs.spread(metric))
        if role.marker == "o" and not self._y_limits[0] <= y <= self._y_limits[1]:
            self._draw_out_of_range(x, y, role)
            return
        self.num_seed_marks += 1
        offset = self._reserve_space(x, y, 0.0 if role.marker == "o" else spread)
        is_hollow = role.marker == "o"
        self._legend_handles[name] = self.axes.errorbar(
            [self._shift_right(x, offset)],
            [y],
            yerr=[spread] if len(seed_runs.records) > 1 else None,
            fmt=role.marker,
            ms=6 if role.marker in "soD" else 8,
            color=role.colour,
            mfc=mpl_style.BACKGROUND if is_hollow else role.colour,
            mec=role.colour if is_hollow else mpl_style.BACKGROUND,
            mew=1.4 if is_hollow else 0.7,
            elinewidth=1.5,
            capsize=3,
            zorder=4,
        )

    def _reserve_space(self, x: float, y: float, spread: float) -> float:
        """Points to the right at which a mark with its bar covers nothing."""
        middle, half = (
            self._to_linear(x) * self._points_per_x,
            max(spread * self._points_per_y, 4.0) + 1.0,
        )
        box = (
            middle - 5.0,
            y * self._points_per_y - half,
            middle + 5.0,
            y * self._points_per_y + half,
        )
        offset = offset_to_free_space(box, self._occupied)
        self._occupied.append((box[0] + offset, box[1], box[2] + offset, box[3]))
        return offset

    def _draw_out_of_range(self, x: float, y: float, role: RoleStyle) -> None:
        """An assembly beyond the axes: a hollow triangle at the edge, with its figure."""
        low, high = self._y_limits
        is_below = y < low
        edge = low + 6 / self._points_per_y if is_below else high - 6 / self._points_per_y
        self.num_assemblies_beyond += 1
        offset = self._reserve_space(x, edge, 0.0)
        self._legend_handles["assembled"] = self.axes.scatter(
            [self._shift_right(x, offset)],
            [edge],
            s=34,
            fc=mpl_style.BACKGROUND,
            ec=role.colour,
            lw=1.4,
            marker="v" if is_below else "^",
            zorder=4,
        )
        self.axes.annotate(
            f"{y:.1f}" if formatting.is_share(self.metric_axes.quality.figure) else f"{y:.3g}",
            (self._shift_right(x, offset), edge),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            fontsize=7.5,
            color=mpl_style.MUTED,
        )

    def draw_legend(self) -> None:
        """A line or two above the axes."""
        self.axes.legend(
            self._legend_handles.values(),
            self._legend_handles.keys(),
            loc="lower left",
            bbox_to_anchor=(0.0, 1.015),
            ncols=8 if self._legend_lines == 1 else _LEGEND_COLUMNS,
            columnspacing=1.2,
        )


def _tick_multiples(ratio: float) -> tuple[float, ...]:
    """Multiples of a power of ten that are named where the axis spans so many times its start."""
    if ratio < 8:
        return (1, 1.5, 2, 3, 5, 7)
    return (1, 2, 5) if ratio < 500 else (1,)
