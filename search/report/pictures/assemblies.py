"""The chosen assemblies: which candidate stands at which place, how wide it is, what it costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon, Rectangle

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.assembled import (
    END_PARTS,
    AssemblyPart,
    AssemblyResult,
    find_assemblies,
    merge_equal,
    select_assemblies,
)
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome

_WIDTH, _LEFT, _RIGHT = 7.6, 1.84, 1.2  # inches: the picture, and the words beside the boxes
_ABOVE, _BELOW = 0.62, 0.42  # inches: the legend and heads, the axis
_BOX_HEIGHT, _BAR_HEIGHT, _NUMBER_HEIGHT, _ROW_GAP = (
    0.5,
    0.15,
    0.13,
    0.2,
)  # inches: a row from top to bottom
_LETTER_WIDTH, _LINE_HEIGHT = 4.1, 8.5  # points that a letter of a box takes, and from line to line
_COLOURS = (
    mpl_style.TRIAL,
    mpl_style.ASSISTANT,
    mpl_style.SECOND,
    mpl_style.DIRECT,
    mpl_style.TEACHER,
    mpl_style.THIRD,
)
_NEUTRAL_FACES = {
    "stem": mpl_style.BACKGROUND,
    "head": mpl_style.BACKGROUND,
    "identity": mpl_style.BACKGROUND,
    "kept": mpl_style.GRID,
}
"""What needs no colour: it was there before, or nothing is there now."""


@dataclass(frozen=True)
class _Style:
    face: str
    edge: str
    hatch: str = ""
    line: str = "-"

    @property
    def patch_arguments(self) -> dict[str, Any]:
        """As a patch takes it: colours of kinds are pale inside, for words to stand on."""
        colour = (self.face, 0.28) if self.face == self.edge else self.face
        return {"fc": colour, "ec": self.edge, "hatch": self.hatch, "ls": self.line, "lw": 0.9}


def draw(outcome: Outcome) -> Picture | None:
    """One row an assembly; none where no finished trial went on from one."""
    rows = select_assemblies(outcome)
    if not rows:
        return None
    costs = _shown_costs(rows)
    row_height = _BOX_HEIGHT + (_BAR_HEIGHT + _NUMBER_HEIGHT) * len(costs)
    height = _ABOVE + _BELOW + len(rows) * (row_height + _ROW_GAP)
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_axes(
        (
            _LEFT / _WIDTH,
            _BELOW / height,
            1 - (_LEFT + _RIGHT) / _WIDTH,
            1 - (_ABOVE + _BELOW) / height,
        ),
        xlim=(0, max(part.stop for row in rows for part in row.parts)),
        ylim=(len(rows) * (row_height + _ROW_GAP), 0),
    )
    plot = _AssemblyPlot(axes, _styles(rows), costs, _largest_costs(rows, costs))
    for index, row in enumerate(rows):
        plot.draw_row(row, index, index * (row_height + _ROW_GAP) + 0.5 * _ROW_GAP)
    plot.draw_axis_and_legend(figure, height)
    return Picture("assemblies", "The chosen assemblies", _caption(outcome, rows, costs), figure)


def _shown_costs(rows: Sequence[AssemblyResult]) -> list[str]:
    """Costs told of every part: parameters, and the first other one that has a budget."""
    parts = [part for row in rows for part in row.parts]
    budgeted = {cost for row in rows for cost in row.plan.get("budgets", {})}
    others = [cost for cost in ("latency_ms", "flops") if cost in budgeted]
    return [c for c in ["parameters", *others[:1]] if all(c in part.costs for part in parts)]


def _largest_costs(rows: Sequence[AssemblyResult], costs: Sequence[str]) -> dict[str, float]:
    return {c: max(part.costs[c] for row in rows for part in row.parts) or 1.0 for c in costs}


def _styles(rows: Sequence[AssemblyResult]) -> dict[str, _Style]:
    """A style for each kind, the most frequent ones first; hatched when colours run out."""
    counts = Counter(part.kind for row in rows for part in row.parts)
    kinds = sorted((k for k in counts if k not in _NEUTRAL_FACES), key=lambda k: (-counts[k], k))
    styles = {}
    for index, kind in enumerate(kinds):
        colour = _COLOURS[index % len(_COLOURS)]
        styles[kind] = _Style(colour, colour, "//" * (index // len(_COLOURS)))
    for kind, face in _NEUTRAL_FACES.items():
        if kind in counts:
            styles[kind] = _Style(face, mpl_style.FAINT, line=":" if kind == "identity" else "-")
    return styles


def _caption(outcome: Outcome, rows: Sequence[AssemblyResult], costs: Sequence[str]) -> str:
    caption = "A row is a teacher's blocks from its stem to its head, and what took their place."
    if any(min(part.enter, part.leave) < 1.0 for row in rows for part in row.parts):
        caption += " A box is as high at its ends as the share of the teacher's channels there."
    if costs:
        names = " and ".join(formatting.metric_label(cost) for cost in costs)
        caption += f" Bars and numbers below are each part's share of the {names} in per cent."
    caption += (
        " To the right is the accuracy as assembled, and of the best student fine-tuned from it"
    )
    teachers = {row.record.parents[0] for row in rows if row.record.parents}
    records = [outcome.records[key] for key in sorted(teachers) if key in outcome.records]
    for figures in (record.figures for record in records):
        accuracy = figures.get("val_accuracy", math.nan)
        size = figures.get("parameters", math.nan)
        caption += f"; the teacher reached {formatting.format_value('val_accuracy', accuracy)}"
        caption += f" with {formatting.format_number('parameters', size)} parameters"
    left_out = sum(
        bool(assembly.trials) for assembly in merge_equal(find_assemblies(outcome))
    ) - len(rows)
    return caption + "." + (f" {left_out} more are in the table below." if left_out else "")


class _AssemblyPlot:
    """The axes: blocks to the right, inches downwards."""

    def __init__(
        self,
        axes: Axes,
        styles: Mapping[str, _Style],
        costs: Sequence[str],
        largest: Mapping[str, float],
    ) -> None:
        self.axes, self.styles, self.costs, self.largest = axes, styles, costs, largest
        self._num_blocks = int(axes.get_xlim()[1])
        self._points_per_block = 72 * (_WIDTH - _LEFT - _RIGHT) / self._num_blocks  # points

    def draw_row(self, row: AssemblyResult, index: int, top: float) -> None:
        """Boxes, what they cost, and the words on both sides."""
        for part in row.parts:
            self._draw_box(part, index, top)
        bar_top = top + _BOX_HEIGHT
        for cost in self.costs:
            self._draw_cost_bars(row, cost, bar_top)
            bar_top += _BAR_HEIGHT + _NUMBER_HEIGHT
        self._draw_row_text(row, top)

    def _draw_box(self, part: AssemblyPart, index: int, top: float) -> None:
        """As wide as the blocks it stands for, as high as it is wide at its ends."""
        inset = 1.2 / self._points_per_block
        left, right, middle = part.start + inset, part.stop - inset, top + 0.5 * _BOX_HEIGHT
        enter, leave = 0.5 * _BOX_HEIGHT * part.enter, 0.5 * _BOX_HEIGHT * part.leave
        corners = [
            (left, middle - enter),
            (right, middle - leave),
            (right, middle + leave),
            (left, middle + enter),
        ]
        style = self.styles[part.kind].patch_arguments
        box = Polygon(corners, gid=f"row{index}-{part.start}-{part.stop}", zorder=2, **style)
        self.axes.add_patch(box)
        self._draw_part_label(part, middle, 72 * (enter + leave))

    def _draw_part_label(self, part: AssemblyPart, middle: float, height: float) -> None:
        """The first of several wordings that fits into the box, along it or upwards."""
        width = self._points_per_block * (part.stop - part.start) - 4
        for lines in _label_variants(part):
            text_width, text_height = (
                _LETTER_WIDTH * max(map(len, lines)),
                _LINE_HEIGHT * len(lines),
            )
            fits_along = text_width <= width and text_height <= height
            if fits_along or (text_width <= height - 1 and text_height <= width + 3):
                self.axes.text(
                    0.5 * (part.start + part.stop),
                    middle,
                    "\n".join(lines),
                    ha="center",
                    va="center",
                    rotation=0 if fits_along else 90,
                    fontsize=6.5,
                    linespacing=1.15,
                    color=mpl_style.MUTED if part.kind in END_PARTS else mpl_style.FOREGROUND,
                )
                return

    def _draw_cost_bars(self, row: AssemblyResult, cost: str, top: float) -> None:
        """Each part's cost hanging below it, and its share in per cent."""
        total = sum(part.costs[cost] for part in row.parts) or 1.0
        for part in row.parts:
            height = _BAR_HEIGHT * 0.85 * part.costs[cost] / self.largest[cost]
            inset = 1.2 / self._points_per_block
            width = part.stop - part.start - 2 * inset
            colour = self.styles[part.kind].edge
            bar = Rectangle((part.start + inset, top + 0.025), width, height, fc=colour, lw=0)
            self.axes.add_patch(bar)
            share = 100 * part.costs[cost] / total
            if share >= 0.5:
                self._draw_number(
                    0.5 * (part.start + part.stop), top + height + 0.085, f"{share:.0f}"
                )
        name = f"{formatting.metric_label(cost)}, %"
        self._draw_text_left(name, top + 0.09, -8, size=6.5, colour=mpl_style.MUTED, at_boxes=True)

    def _draw_number(self, x: float, y: float, text: str) -> None:
        self.axes.text(x, y, text, ha="center", va="center", fontsize=6, color=mpl_style.MUTED)

    def _draw_row_text(self, row: AssemblyResult, top: float) -> None:
        prediction, size = _prediction_text(row), _size_text(row)
        for index, text in enumerate((_trials_text(row), size, prediction)):
            colour = mpl_style.MUTED if index else mpl_style.FOREGROUND
            self._draw_text_left(
                text, top + 0.09 + 0.16 * index, size=7.5 if index else 8.5, colour=colour
            )
        before, after = row.metric("val_accuracy"), row.best_accuracy
        accuracies = [
            formatting.format_number("val_accuracy", x) for x in (before, after) if math.isfinite(x)
        ]
        accuracy_text = " → ".join(accuracies) + " %" if accuracies else "-"
        latency = _latency_text(row)
        middle = top + 0.5 * _BOX_HEIGHT - 0.08 * bool(latency)
        self._draw_text_right(accuracy_text, middle, 8.5, mpl_style.FOREGROUND)
        self._draw_text_right(latency, middle + 0.16, 7.5, mpl_style.MUTED)

    def _draw_text_right(self, text: str, y: float, size: float, colour: str) -> None:
        """Words to the right of the boxes."""
        self.axes.annotate(
            text,
            (1.0, y),
            xycoords=self.axes.get_yaxis_transform(),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=colour,
        )

    def _draw_text_left(
        self,
        text: str,
        y: float,
        offset: float = 0,
        *,
        size: float,
        colour: str,
        at_boxes: bool = False,
    ) -> None:
        """Words to the left of the boxes, from the picture's edge or up to the boxes."""
        self.axes.annotate(
            text,
            (0.0, y),
            xycoords=self.axes.get_yaxis_transform(),
            xytext=(offset if at_boxes else 8 - 72 * _LEFT, 0),
            textcoords="offset points",
            ha="right" if at_boxes else "left",
            va="center",
            fontsize=size,
            color=colour,
        )

    def draw_axis_and_legend(self, figure: Figure, height: float) -> None:
        """The axis of blocks, the legend and what stands at the right."""
        mpl_style.hide_frame(self.axes, keep_spines=("bottom",))
        step = 1 if self._num_blocks <= 20 else 2
        self.axes.set_xticks(range(0, self._num_blocks + 1, step))
        self.axes.set_xlabel("cuts between the teacher's blocks")
        handles = {kind: Patch(**style.patch_arguments) for kind, style in self.styles.items()}
        drawn = {kind: patch for kind, patch in handles.items() if kind not in END_PARTS}
        figure.legend(
            drawn.values(),
            drawn.keys(),
            loc="upper left",
            bbox_to_anchor=(8 / 72 / _WIDTH, 1 - 0.1 / height),
            ncols=9,
            columnspacing=1.4,
            handlelength=1.3,
        )
        figure.text(
            1 - (_RIGHT - 8 / 72) / _WIDTH,
            1 - 0.5 / height,
            "assembled → tuned",
            va="center",
            fontsize=7.5,
            color=mpl_style.MUTED,
        )


def _label_variants(part: AssemblyPart) -> Iterator[list[str]]:
    """From the most telling one to the shortest."""
    if part.settings:
        yield [part.kind, part.settings]
        yield [part.settings]
    yield [part.kind]


def _trials_text(row: AssemblyResult) -> str:
    """The best trial and how many others went on from the same assembly."""
    num_others = len(row.trials) - 1
    others = f" and {num_others} other{'s' * (num_others > 1)}" if num_others else ""
    return f"trial {row.trials[0].number}{others}"


def _size_text(row: AssemblyResult) -> str:
    text = f"{formatting.format_number('parameters', row.metric('parameters'))} parameters"
    limit = row.plan.get("budgets", {}).get("parameters", {}).get("max")
    return text + (f" (≤ {formatting.format_compact(limit)})" if limit is not None else "")


def _prediction_text(row: AssemblyResult) -> str:
    predicted, rank = row.metric("planned_score"), row.plan.get("rank")
    texts = [f"{row.score} {predicted:.4g}"] if math.isfinite(predicted) else []
    return ", ".join(texts + ([f"rank {rank}"] if rank is not None else []))


def _latency_text(row: AssemblyResult) -> str:
    """As measured, and what it was allowed; empty where it was not measured."""
    latency = row.metric("latency_ms")
    if math.isnan(latency):
        return ""
    limit = row.plan.get("budgets", {}).get("latency_ms", {}).get("max")
    return f"{latency:.3g} ms" + (f" (≤ {limit:.3g})" if limit is not None else "")
