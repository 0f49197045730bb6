"""Drawing the tree of chains, and beside each of its leaves the students that it bore."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.axes_choice import plane
from stillhouse.search.report.core.label_layout import worth_showing
from stillhouse.search.report.core.lineage import Forest, Leaf, Node, forest
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import Cast, Student
from stillhouse.search.results.outcome import Outcome

MOST_LEAVES = 24
_WIDE, _SHARE = 7.6, 0.63  # the picture in inches, the tree's part of it
_BEND = 0.16  # where a line turns, in columns behind the teacher


def draw(outcome: Outcome, cast: Cast) -> Picture | None:
    """The picture; none where no student had a teacher."""
    goal = plane(outcome.goals).quality
    grown = forest(cast, goal, MOST_LEAVES)
    if not grown.roots:
        return None
    rows = max(grown.rows, 2)
    tall = 0.95 + 0.34 * rows
    figure = Figure(figsize=(_WIDE, tall))
    bottom, height = 0.5 / tall, 1 - 0.55 / tall
    branches = figure.add_axes((0.01, bottom, _SHARE, height), ylim=(rows - 0.4, -0.9))
    strip = figure.add_axes((0.67, bottom, 0.32, height), ylim=(rows - 0.4, -0.9))
    _branches(branches, grown, goal)
    _strip(strip, grown, goal)
    return Picture("chains", "Who taught whom", _caption(grown), figure)


def _caption(grown: Forest) -> str:
    told = (
        "Every line is a chain from the teacher to the students at its end, whose figures stand "
        "to the right: the best one in full colour, hollow ones were stopped early."
    )
    if any(node.dense for node in grown.nodes):
        told += " In dense chains each learnt from all before it on its line."
    if any(node.others for node in grown.nodes) or any(leaf.others for leaf in grown.leaves):
        told += " Dotted arcs are further teachers."
    if grown.left_out:
        shown = len(grown.leaves)
        told += f" Only the best {shown} ends of {shown + grown.left_out} are shown."
    return told


def _branches(axes: Axes, grown: Forest, goal: Goal) -> None:
    look.bare(axes)
    last = grown.depth + 1
    axes.set_xlim(-0.85, last + 0.02)
    letters = int((72 * _WIDE * _SHARE * (1 - _BEND) / (last + 0.87) - 10) / 4.9)
    nodes = {node.shared.key: node for node in grown.nodes}
    names = formatting.fitted([_name(node) for node in nodes.values()], max(letters, 5))
    ends = formatting.fitted([leaf.network for leaf in grown.leaves], max(letters - 5, 5))
    best = grown.best(goal)
    for node in nodes.values():
        for child in node.nodes:
            _line(axes, node, child.depth, child.row, any(best is x for x in child.all_leaves()))
        for leaf in node.leaves:
            _line(axes, node, last, leaf.row, leaf is best)
            count = f"  \u00d7{len(leaf.students)}" if len(leaf.students) > 1 else ""
            _write(axes, last, leaf.row, ends[leaf.network] + count, up=True, aside=1)
            _further(axes, leaf.others, (last, leaf.row), nodes)
        _further(axes, node.others, (node.depth, node.row), nodes)
        _node(axes, node, goal, names[_name(node)])


def _write(axes: Axes, depth: float, row: float, text: str, *, up: bool, aside: float) -> None:
    """A label on the line that leads to a place, or below it."""
    axes.annotate(
        text,
        (depth, row),
        xytext=(-aside, 2 if up else -2.5),
        textcoords="offset points",
        ha="right",
        va="bottom" if up else "top",
        fontsize=8 if up else 7.5,
        color=look.INK if up else look.MUTED,
    )


def _line(axes: Axes, node: Node, depth: int, row: float, best: bool) -> None:
    """Along, down, and along again, as in a pedigree."""
    bend = node.depth + _BEND
    axes.plot(
        [node.depth, bend, bend, depth],
        [node.row, node.row, row, row],
        color=look.TRIAL if best else look.FAINT,
        lw=1.6 if best else 1.0,
        solid_joinstyle="round",
        zorder=2 if best else 1,
    )


def _name(node: Node) -> str:
    return node.shared.name or node.shared.label


def _node(axes: Axes, node: Node, goal: Goal, name: str) -> None:
    """Its mark, its name above the line that leads to it and its figure below."""
    marker, colour, size = ("D", look.ASSISTANT, 32) if node.depth else ("^", look.TEACHER, 60)
    axes.scatter(
        [node.depth], [node.row], s=size, c=colour, marker=marker, ec=look.GROUND, zorder=3
    )
    _write(axes, node.depth, node.row, name, up=True, aside=8)
    figure = node.shared.figure(goal.figure)
    if math.isfinite(figure):
        told = formatting.number(goal.figure, figure)
        _write(axes, node.depth, node.row, told, up=False, aside=8)


def _further(
    axes: Axes, others: Sequence[str], place: tuple[float, float], nodes: Mapping[str, Node]
) -> None:
    """Arcs to a place from teachers that stand on other lines."""
    for key in others:
        if key in nodes:
            other = nodes[key]
            axes.annotate(
                "",
                place,
                (other.depth, other.row),
                arrowprops={
                    "arrowstyle": "-",
                    "linestyle": ":",
                    "color": look.FAINT,
                    "connectionstyle": "arc3,rad=0.25",
                },
            )


def _strip(axes: Axes, grown: Forest, goal: Goal) -> None:
    """A dot a student, beside the leaf it belongs to, and the best one's figure."""
    leaves = grown.leaves
    bests = {leaf.row: leaf.best(goal) for leaf in leaves}
    top = grown.best(goal)
    look.bare(axes)
    if top is None:
        return
    low, high = _range(leaves, goal)
    axes.set_xlim(low - 0.03 * (high - low), high + 0.25 * (high - low))
    for leaf in leaves:
        axes.plot([low, high], [leaf.row] * 2, color=look.RULE, lw=0.8, zorder=0)
        for student in leaf.students:
            value = formatting.shown(goal.figure, student.figure(goal.figure))
            if math.isfinite(value):
                best = student.figure(goal.figure) == bests[leaf.row]
                marker = "<" if value < low else ">" if value > high else "o"
                _dot(axes, min(max(value, low), high), leaf.row, student, best, marker)
        known = math.isfinite(bests[leaf.row])
        axes.annotate(
            formatting.number(goal.figure, bests[leaf.row]) if known else _state(leaf),
            (1.0, leaf.row),
            xycoords=axes.get_yaxis_transform(),
            ha="right",
            va="center_baseline",
            fontsize=8 if known else 7.5,
            fontweight="bold" if leaf is top else "normal",
            color=look.INK if known else look.MUTED,
        )
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.set_xlabel(formatting.axis(goal.figure))


def _range(leaves: Sequence[Leaf], goal: Goal) -> tuple[float, float]:
    """What the strip shows: the finished students without those that failed."""
    values = [
        formatting.shown(goal.figure, student.figure(goal.figure))
        for leaf in leaves
        for student in leaf.students
        if student.trial.state == "finished"
    ]
    low, high = worth_showing([v for v in values if math.isfinite(v)], goal.maximize)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _state(leaf: Leaf) -> str:
    """What became of students of whom none finished."""
    states = {student.trial.state for student in leaf.students}
    return "stopped" if "pruned" in states else min(states)


def _dot(axes: Axes, x: float, row: int, student: Student, best: bool, marker: str) -> None:
    done = student.trial.state == "finished"
    axes.scatter(
        [x],
        [row],
        marker=marker,
        s=34 if best else 24,
        fc=look.TRIAL if done else look.GROUND,
        ec=look.GROUND if done else look.FAINT,
        lw=0.7,
        alpha=1.0 if best or not done else 0.4,
        zorder=4 if best else 3 if done else 2,
    )
