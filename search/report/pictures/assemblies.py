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
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.assembled import (
    ENDS,
    Assembled,
    Part,
    assembled,
    chosen,
    distinct,
)
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome

_WIDE, _LEFT, _RIGHT = 7.6, 1.84, 1.2  # inches: the picture, and the words beside the boxes
_ABOVE, _BELOW = 0.62, 0.42  # inches: the legend and heads, the axis
_BOX, _BAR, _NUMBER, _GAP = 0.5, 0.15, 0.13, 0.2  # inches: a row from top to bottom
_LETTER, _LINE = 4.1, 8.5  # points that a letter of a box takes, and from line to line
_COLOURS = (look.TRIAL, look.ASSISTANT, look.SECOND, look.DIRECT, look.TEACHER, look.THIRD)
_PLAIN = {"stem": look.GROUND, "head": look.GROUND, "identity": look.GROUND, "kept": look.RULE}
"""What needs no colour: it was there before, or nothing is there now."""


@dataclass(frozen=True)
class _Style:
    face: str
    edge: str
    hatch: str = ""
    line: str = "-"

    @property
    def drawn(self) -> dict[str, Any]:
        """As a patch takes it: colours of kinds are pale inside, for words to stand on."""
        colour = (self.face, 0.28) if self.face == self.edge else self.face
        return {"fc": colour, "ec": self.edge, "hatch": self.hatch, "ls": self.line, "lw": 0.9}


def draw(outcome: Outcome) -> Picture | None:
    """One row an assembly; none where no finished trial went on from one."""
    rows = chosen(outcome)
    if not rows:
        return None
    costs = _costs(rows)
    deep = _BOX + (_BAR + _NUMBER) * len(costs)
    tall = _ABOVE + _BELOW + len(rows) * (deep + _GAP)
    figure = Figure(figsize=(_WIDE, tall))
    axes = figure.add_axes(
        (_LEFT / _WIDE, _BELOW / tall, 1 - (_LEFT + _RIGHT) / _WIDE, 1 - (_ABOVE + _BELOW) / tall),
        xlim=(0, max(part.stop for row in rows for part in row.parts)),
        ylim=(len(rows) * (deep + _GAP), 0),
    )
    canvas = _Canvas(axes, _styles(rows), costs, _largest(rows, costs))
    for place, row in enumerate(rows):
        canvas.row(row, place, place * (deep + _GAP) + 0.5 * _GAP)
    canvas.finish(figure, tall)
    return Picture("assemblies", "The chosen assemblies", _caption(outcome, rows, costs), figure)


def _costs(rows: Sequence[Assembled]) -> list[str]:
    """Costs told of every part: parameters, and the first other one that has a budget."""
    parts = [part for row in rows for part in row.parts]
    wanted = {cost for row in rows for cost in row.work.get("budgets", {})}
    others = [cost for cost in ("latency_ms", "flops") if cost in wanted]
    return [c for c in ["parameters", *others[:1]] if all(c in part.costs for part in parts)]


def _largest(rows: Sequence[Assembled], costs: Sequence[str]) -> dict[str, float]:
    return {c: max(part.costs[c] for row in rows for part in row.parts) or 1.0 for c in costs}


def _styles(rows: Sequence[Assembled]) -> dict[str, _Style]:
    """A style for each kind, the most frequent ones first; hatched when colours run out."""
    counts = Counter(part.kind for row in rows for part in row.parts)
    kinds = sorted((k for k in counts if k not in _PLAIN), key=lambda k: (-counts[k], k))
    styles = {}
    for place, kind in enumerate(kinds):
        colour = _COLOURS[place % len(_COLOURS)]
        styles[kind] = _Style(colour, colour, "//" * (place // len(_COLOURS)))
    for kind, face in _PLAIN.items():
        if kind in counts:
            styles[kind] = _Style(face, look.FAINT, line=":" if kind == "identity" else "-")
    return styles


def _caption(outcome: Outcome, rows: Sequence[Assembled], costs: Sequence[str]) -> str:
    told = "A row is a teacher's blocks from its stem to its head, and what took their place."
    if any(min(part.enter, part.leave) < 1.0 for row in rows for part in row.parts):
        told += " A box is as high at its ends as the share of the teacher's channels there."
    if costs:
        names = " and ".join(formatting.name(cost) for cost in costs)
        told += f" Bars and numbers below are each part's share of the {names} in per cent."
    told += " To the right is the accuracy as assembled, and of the best student fine-tuned from it"
    teachers = {row.record.parents[0] for row in rows if row.record.parents}
    records = [outcome.stages[key] for key in sorted(teachers) if key in outcome.stages]
    for figures in (record.figures for record in records):
        accuracy = figures.get("val_accuracy", math.nan)
        size = figures.get("parameters", math.nan)
        told += f"; the teacher reached {formatting.value('val_accuracy', accuracy)}"
        told += f" with {formatting.number('parameters', size)} parameters"
    left_out = sum(bool(one.trials) for one in distinct(assembled(outcome))) - len(rows)
    return told + "." + (f" {left_out} more are in the table below." if left_out else "")


class _Canvas:
    """The axes: blocks to the right, inches downwards."""

    def __init__(
        self,
        axes: Axes,
        styles: Mapping[str, _Style],
        costs: Sequence[str],
        largest: Mapping[str, float],
    ) -> None:
        self.axes, self.styles, self.costs, self.largest = axes, styles, costs, largest
        self._blocks = int(axes.get_xlim()[1])
        self._block = 72 * (_WIDE - _LEFT - _RIGHT) / self._blocks  # points

    def row(self, row: Assembled, place: int, top: float) -> None:
        """Boxes, what they cost, and the words on both sides."""
        for part in row.parts:
            self._box(part, place, top)
        down = top + _BOX
        for cost in self.costs:
            self._bars(row, cost, down)
            down += _BAR + _NUMBER
        self._beside(row, top)

    def _box(self, part: Part, place: int, top: float) -> None:
        """As wide as the blocks it stands for, as high as it is wide at its ends."""
        inset = 1.2 / self._block
        left, right, middle = part.start + inset, part.stop - inset, top + 0.5 * _BOX
        enter, leave = 0.5 * _BOX * part.enter, 0.5 * _BOX * part.leave
        corners = [
            (left, middle - enter),
            (right, middle - leave),
            (right, middle + leave),
            (left, middle + enter),
        ]
        style = self.styles[part.kind].drawn
        box = Polygon(corners, gid=f"row{place}-{part.start}-{part.stop}", zorder=2, **style)
        self.axes.add_patch(box)
        self._write(part, middle, 72 * (enter + leave))

    def _write(self, part: Part, middle: float, high: float) -> None:
        """The first of several wordings that fits into the box, along it or upwards."""
        wide = self._block * (part.stop - part.start) - 4
        for lines in _wordings(part):
            long, thick = _LETTER * max(map(len, lines)), _LINE * len(lines)
            along = long <= wide and thick <= high
            if along or (long <= high - 1 and thick <= wide + 3):
                self.axes.text(
                    0.5 * (part.start + part.stop),
                    middle,
                    "\n".join(lines),
                    ha="center",
                    va="center",
                    rotation=0 if along else 90,
                    fontsize=6.5,
                    linespacing=1.15,
                    color=look.MUTED if part.kind in ENDS else look.INK,
                )
                return

    def _bars(self, row: Assembled, cost: str, top: float) -> None:
        """Each part's cost hanging below it, and its share in per cent."""
        whole = sum(part.costs[cost] for part in row.parts) or 1.0
        for part in row.parts:
            high = _BAR * 0.85 * part.costs[cost] / self.largest[cost]
            inset = 1.2 / self._block
            wide = part.stop - part.start - 2 * inset
            colour = self.styles[part.kind].edge
            bar = Rectangle((part.start + inset, top + 0.025), wide, high, fc=colour, lw=0)
            self.axes.add_patch(bar)
            share = 100 * part.costs[cost] / whole
            if share >= 0.5:
                self._small(0.5 * (part.start + part.stop), top + high + 0.085, f"{share:.0f}")
        name = f"{formatting.name(cost)}, %"
        self._aside(name, top + 0.09, -8, size=6.5, colour=look.MUTED, end=True)

    def _small(self, x: float, y: float, text: str) -> None:
        self.axes.text(x, y, text, ha="center", va="center", fontsize=6, color=look.MUTED)

    def _beside(self, row: Assembled, top: float) -> None:
        said, size = _planned(row), _size(row)
        for line, text in enumerate((_trials(row), size, said)):
            colour = look.MUTED if line else look.INK
            self._aside(text, top + 0.09 + 0.16 * line, size=7.5 if line else 8.5, colour=colour)
        before, after = row.figure("val_accuracy"), row.reached
        both = [formatting.number("val_accuracy", x) for x in (before, after) if math.isfinite(x)]
        told = " → ".join(both) + " %" if both else "-"
        latency = _latency(row)
        middle = top + 0.5 * _BOX - 0.08 * bool(latency)
        self._behind(told, middle, 8.5, look.INK)
        self._behind(latency, middle + 0.16, 7.5, look.MUTED)

    def _behind(self, text: str, y: float, size: float, colour: str) -> None:
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

    def _aside(
        self, text: str, y: float, aside: float = 0, *, size: float, colour: str, end: bool = False
    ) -> None:
        """Words to the left of the boxes, from the picture's edge or up to the boxes."""
        self.axes.annotate(
            text,
            (0.0, y),
            xycoords=self.axes.get_yaxis_transform(),
            xytext=(aside if end else 8 - 72 * _LEFT, 0),
            textcoords="offset points",
            ha="right" if end else "left",
            va="center",
            fontsize=size,
            color=colour,
        )

    def finish(self, figure: Figure, tall: float) -> None:
        """The axis of blocks, the legend and what stands at the right."""
        look.bare(self.axes, keep=("bottom",))
        step = 1 if self._blocks <= 20 else 2
        self.axes.set_xticks(range(0, self._blocks + 1, step))
        self.axes.set_xlabel("cuts between the teacher's blocks")
        handles = {kind: Patch(**style.drawn) for kind, style in self.styles.items()}
        drawn = {kind: patch for kind, patch in handles.items() if kind not in ENDS}
        figure.legend(
            drawn.values(),
            drawn.keys(),
            loc="upper left",
            bbox_to_anchor=(8 / 72 / _WIDE, 1 - 0.1 / tall),
            ncols=9,
            columnspacing=1.4,
            handlelength=1.3,
        )
        figure.text(
            1 - (_RIGHT - 8 / 72) / _WIDE,
            1 - 0.5 / tall,
            "assembled → tuned",
            va="center",
            fontsize=7.5,
            color=look.MUTED,
        )


def _wordings(part: Part) -> Iterator[list[str]]:
    """From the most telling one to the shortest."""
    if part.settings:
        yield [part.kind, part.settings]
        yield [part.settings]
    yield [part.kind]


def _trials(row: Assembled) -> str:
    """The best trial and how many others went on from the same assembly."""
    more = len(row.trials) - 1
    others = f" and {more} other{'s' * (more > 1)}" if more else ""
    return f"trial {row.trials[0].number}{others}"


def _size(row: Assembled) -> str:
    told = f"{formatting.number('parameters', row.figure('parameters'))} parameters"
    most = row.work.get("budgets", {}).get("parameters", {}).get("max")
    return told + (f" (≤ {formatting.compact(most)})" if most is not None else "")


def _planned(row: Assembled) -> str:
    predicted, rank = row.figure("planned_score"), row.work.get("rank")
    told = [f"{row.score} {predicted:.4g}"] if math.isfinite(predicted) else []
    return ", ".join(told + ([f"rank {rank}"] if rank is not None else []))


def _latency(row: Assembled) -> str:
    """As measured, and what it was allowed; empty where it was not measured."""
    latency = row.figure("latency_ms")
    if math.isnan(latency):
        return ""
    most = row.work.get("budgets", {}).get("latency_ms", {}).get("max")
    return f"{latency:.3g} ms" + (f" (≤ {most:.3g})" if most is not None else "")
