"""Draws the tree of chains, with the students beside their leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.axes_choice import choose_metric_axes
from stillhouse.search.report.core.label_layout import robust_range
from stillhouse.search.report.core.lineage import (
    LineageForest,
    StudentLeaf,
    TeacherNode,
    build_forest,
)
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.participants import Participants, Student
from stillhouse.search.results.outcome import Outcome

MAX_LEAVES = 24
_WIDTH, _TREE_SHARE = 7.6, 0.63  # the picture in inches, the tree's part of it
_BEND = 0.16  # where a line turns, in columns behind the teacher


def draw(outcome: Outcome, participants: Participants) -> Picture | None:
    """The picture; none where no student had a teacher."""
    goal = choose_metric_axes(outcome.goals).quality
    lineage = build_forest(participants, goal, MAX_LEAVES)
    if not lineage.roots:
        return None
    rows = max(lineage.num_rows, 2)
    height_inches = 0.95 + 0.34 * rows
    figure = Figure(figsize=(_WIDTH, height_inches))
    bottom, height = 0.5 / height_inches, 1 - 0.55 / height_inches
    tree_axes = figure.add_axes((0.01, bottom, _TREE_SHARE, height), ylim=(rows - 0.4, -0.9))
    result_axes = figure.add_axes((0.67, bottom, 0.32, height), ylim=(rows - 0.4, -0.9))
    _draw_tree(tree_axes, lineage, goal)
    _draw_results(result_axes, lineage, goal)
    return Picture("chains", "Who taught whom", _caption(lineage), figure)


def _caption(lineage: LineageForest) -> str:
    caption = (
        "Every line is a chain from the teacher to the students at its end, whose figures stand "
        "to the right: the best one in full colour, hollow ones were stopped early."
    )
    if any(node.is_dense for node in lineage.nodes):
        caption += " In dense chains each learnt from all before it on its line."
    if any(node.other_teachers for node in lineage.nodes) or any(
        leaf.other_teachers for leaf in lineage.leaves
    ):
        caption += " Dotted arcs are further teachers."
    if lineage.num_left_out:
        num_shown = len(lineage.leaves)
        caption += (
            f" Only the best {num_shown} ends of {num_shown + lineage.num_left_out} are shown."
        )
    return caption


def _draw_tree(axes: Axes, lineage: LineageForest, goal: Goal) -> None:
    mpl_style.hide_frame(axes)
    last = lineage.depth + 1
    axes.set_xlim(-0.85, last + 0.02)
    max_letters = int((72 * _WIDTH * _TREE_SHARE * (1 - _BEND) / (last + 0.87) - 10) / 4.9)
    nodes = {node.stage.key: node for node in lineage.nodes}
    names = formatting.fit_names([_node_name(node) for node in nodes.values()], max(max_letters, 5))
    ends = formatting.fit_names([leaf.network for leaf in lineage.leaves], max(max_letters - 5, 5))
    best_leaf = lineage.best_leaf(goal)
    for node in nodes.values():
        for child in node.children:
            _draw_branch(
                axes, node, child.depth, child.row, any(best_leaf is x for x in child.all_leaves())
            )
        for leaf in node.leaves:
            _draw_branch(axes, node, last, leaf.row, leaf is best_leaf)
            count = f"  \u00d7{len(leaf.students)}" if len(leaf.students) > 1 else ""
            _draw_label(axes, last, leaf.row, ends[leaf.network] + count, above=True, offset=1)
            _draw_other_teachers(axes, leaf.other_teachers, (last, leaf.row), nodes)
        _draw_other_teachers(axes, node.other_teachers, (node.depth, node.row), nodes)
        _draw_node(axes, node, goal, names[_node_name(node)])


def _draw_label(
    axes: Axes, depth: float, row: float, text: str, *, above: bool, offset: float
) -> None:
    """A label on the line that leads to a place, or below it."""
    axes.annotate(
        text,
        (depth, row),
        xytext=(-offset, 2 if above else -2.5),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        fontsize=8 if above else 7.5,
        color=mpl_style.FOREGROUND if above else mpl_style.MUTED,
    )


def _draw_branch(axes: Axes, node: TeacherNode, depth: int, row: float, is_best: bool) -> None:
    """Along, down, and along again, as in a pedigree."""
    bend = node.depth + _BEND
    axes.plot(
        [node.depth, bend, bend, depth],
        [node.row, node.row, row, row],
        color=mpl_style.TRIAL if is_best else mpl_style.FAINT,
        lw=1.6 if is_best else 1.0,
        solid_joinstyle="round",
        zorder=2 if is_best else 1,
    )


def _node_name(node: TeacherNode) -> str:
    return node.stage.network or node.stage.label


def _draw_node(axes: Axes, node: TeacherNode, goal: Goal, name: str) -> None:
    """Its mark, its name above the line that leads to it and its figure below."""
    marker, colour, size = (
        ("D", mpl_style.ASSISTANT, 32) if node.depth else ("^", mpl_style.TEACHER, 60)
    )
    axes.scatter(
        [node.depth], [node.row], s=size, c=colour, marker=marker, ec=mpl_style.BACKGROUND, zorder=3
    )
    _draw_label(axes, node.depth, node.row, name, above=True, offset=8)
    value = node.stage.metric(goal.figure)
    if math.isfinite(value):
        text = formatting.format_number(goal.figure, value)
        _draw_label(axes, node.depth, node.row, text, above=False, offset=8)


def _draw_other_teachers(
    axes: Axes, others: Sequence[str], target: tuple[float, float], nodes: Mapping[str, TeacherNode]
) -> None:
    """Arcs to a place from teachers that stand on other lines."""
    for key in others:
        if key in nodes:
            other = nodes[key]
            axes.annotate(
                "",
                target,
                (other.depth, other.row),
                arrowprops={
                    "arrowstyle": "-",
                    "linestyle": ":",
                    "color": mpl_style.FAINT,
                    "connectionstyle": "arc3,rad=0.25",
                },
            )


def _draw_results(axes: Axes, lineage: LineageForest, goal: Goal) -> None:
    """A dot a student, beside the leaf it belongs to, and the best one's figure."""
    leaves = lineage.leaves
    best_values = {leaf.row: leaf.best_value(goal) for leaf in leaves}
    best_leaf = lineage.best_leaf(goal)
    mpl_style.hide_frame(axes)
    if best_leaf is None:
        return
    low, high = _value_range(leaves, goal)
    axes.set_xlim(low - 0.03 * (high - low), high + 0.25 * (high - low))
    for leaf in leaves:
        axes.plot([low, high], [leaf.row] * 2, color=mpl_style.GRID, lw=0.8, zorder=0)
        for student in leaf.students:
            value = formatting.plot_value(goal.figure, student.metric(goal.figure))
            if math.isfinite(value):
                best = student.metric(goal.figure) == best_values[leaf.row]
                marker = "<" if value < low else ">" if value > high else "o"
                _draw_student(axes, min(max(value, low), high), leaf.row, student, best, marker)
        has_value = math.isfinite(best_values[leaf.row])
        axes.annotate(
            formatting.format_number(goal.figure, best_values[leaf.row])
            if has_value
            else _state_text(leaf),
            (1.0, leaf.row),
            xycoords=axes.get_yaxis_transform(),
            ha="right",
            va="center_baseline",
            fontsize=8 if has_value else 7.5,
            fontweight="bold" if leaf is best_leaf else "normal",
            color=mpl_style.FOREGROUND if has_value else mpl_style.MUTED,
        )
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.set_xlabel(formatting.axis_label(goal.figure))


def _value_range(leaves: Sequence[StudentLeaf], goal: Goal) -> tuple[float, float]:
    """What the strip shows: the finished students without those that failed."""
    values = [
        formatting.plot_value(goal.figure, student.metric(goal.figure))
        for leaf in leaves
        for student in leaf.students
        if student.trial.state == "finished"
    ]
    low, high = robust_range([v for v in values if math.isfinite(v)], goal.maximize)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _state_text(leaf: StudentLeaf) -> str:
    """The states of students of which none finished."""
    states = {student.trial.state for student in leaf.students}
    return "stopped" if "pruned" in states else min(states)


def _draw_student(
    axes: Axes, x: float, row: int, student: Student, is_best: bool, marker: str
) -> None:
    is_finished = student.trial.state == "finished"
    axes.scatter(
        [x],
        [row],
        marker=marker,
        s=34 if is_best else 24,
        fc=mpl_style.TRIAL if is_finished else mpl_style.BACKGROUND,
        ec=mpl_style.BACKGROUND if is_finished else mpl_style.FAINT,
        lw=0.7,
        alpha=1.0 if is_best or not is_finished else 0.4,
        zorder=4 if is_best else 3 if is_finished else 2,
    )
