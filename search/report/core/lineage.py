"""The tree of chains, from the teacher at the root to the students."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core.participants import Participants, SharedStage, Student


@dataclass
class StudentLeaf:
    """Students of one network that learnt from the same teachers.

    ``other_teachers`` holds keys of the teachers beside the one that it hangs from.
    """

    network: str
    students: list[Student]
    other_teachers: tuple[str, ...] = ()
    row: int = 0

    def best_value(self, goal: Goal) -> float:
        """The figure of the best one that finished; not a number if none did."""
        finished = [s.metric(goal.figure) for s in self.students if s.trial.state == "finished"]
        values = [value for value in finished if math.isfinite(value)]
        return (max if goal.maximize else min)(values) if values else math.nan


@dataclass
class TeacherNode:
    """A teacher or an assistant, what it taught, and where it stands.

    ``other_teachers`` holds keys of further teachers it learnt from that stand on other lines;
    ``ancestors`` keys of all before it on its own, of which it learnt from several if ``is_dense``.
    """

    stage: SharedStage
    depth: int
    children: list[TeacherNode] = field(default_factory=list)
    leaves: list[StudentLeaf] = field(default_factory=list)
    other_teachers: tuple[str, ...] = ()
    is_dense: bool = False
    ancestors: frozenset[str] = frozenset()
    row: float = 0.0

    def walk(self) -> Iterator[TeacherNode]:
        """This node and all below, parents first."""
        yield self
        for node in self.children:
            yield from node.walk()

    def all_leaves(self) -> Iterator[StudentLeaf]:
        for node in self.walk():
            yield from node.leaves


@dataclass(frozen=True)
class LineageForest:
    """One tree a teacher, over ``num_rows`` lines. ``num_left_out`` leaves were too many to
    show."""

    roots: tuple[TeacherNode, ...]
    num_left_out: int
    num_rows: int

    @property
    def nodes(self) -> list[TeacherNode]:
        return [node for root in self.roots for node in root.walk()]

    @property
    def leaves(self) -> list[StudentLeaf]:
        return [leaf for root in self.roots for leaf in root.all_leaves()]

    @property
    def depth(self) -> int:
        return max(node.depth for node in self.nodes)

    def best_leaf(self, goal: Goal) -> StudentLeaf | None:
        """The leaf that holds the best student; none where no student finished."""
        found_leaf = min(
            self.leaves, key=lambda leaf: _sort_value(leaf.best_value(goal), goal), default=None
        )
        return found_leaf if found_leaf and math.isfinite(found_leaf.best_value(goal)) else None


def build_forest(participants: Participants, goal: Goal, max_leaves: int) -> LineageForest:
    """The trees of all students who had a teacher, cut down to the ``max_leaves`` best leaves.

    Whoever learnt from several hangs from the last: in a dense chain, the closest one.
    """
    leaves: dict[tuple[tuple[str, ...], str], StudentLeaf] = {}
    for student in participants.students:
        if student.taught_by:
            group = student.taught_by, student.network or student.label
            leaves.setdefault(group, StudentLeaf(group[1], [])).students.append(student)
    order = sorted(leaves, key=lambda group: _sort_value(leaves[group].best_value(goal), goal))
    shown = {group: leaves[group] for group in order[:max_leaves]}
    roots = _build_nodes(participants, shown)
    row = 0
    for root in roots:
        row = _assign_rows(root, goal, row)
    return LineageForest(tuple(roots), len(leaves) - len(shown), row)


def _sort_value(value: float, goal: Goal) -> float:
    """Smaller is better; what is not a number comes last."""
    if math.isnan(value):
        return math.inf
    return -value if goal.maximize else value


def _build_nodes(
    participants: Participants, leaves: dict[tuple[tuple[str, ...], str], StudentLeaf]
) -> list[TeacherNode]:
    """Nodes for every teacher that a leaf rests on, hung below each other."""
    nodes: dict[str, TeacherNode] = {}
    roots: list[TeacherNode] = []

    def find_node(key: str) -> TeacherNode:
        if key not in nodes:
            stage = participants.shared[key]
            parents = [parent for parent in stage.record.parents if parent in participants.shared]
            nearest = find_node(parents[-1]) if parents else None
            ancestors = {nearest.stage.key} | nearest.ancestors if nearest else set()
            others = tuple(parent for parent in parents if parent not in ancestors)
            depth, dense = nearest.depth + 1 if nearest else 0, len(ancestors & set(parents)) > 1
            nodes[key] = TeacherNode(
                stage, depth, other_teachers=others, is_dense=dense, ancestors=frozenset(ancestors)
            )
            (nearest.children if nearest else roots).append(nodes[key])
        return nodes[key]

    for (teachers, _), leaf in leaves.items():
        closest = find_node(teachers[-1])
        closest.leaves.append(leaf)
        ancestors = closest.ancestors | {closest.stage.key}
        leaf.other_teachers = tuple(
            key for key in teachers if key not in ancestors and key in participants.shared
        )
        for key in leaf.other_teachers:
            find_node(key)
    return roots


def _assign_rows(node: TeacherNode, goal: Goal, row: int) -> int:
    """Give rows to all leaves below, from ``row`` on, the best branch first; the next free row."""
    first_row = row
    for leaf in sorted(node.leaves, key=lambda leaf: _sort_value(leaf.best_value(goal), goal)):
        leaf.row = row
        row += 1
    for child in sorted(node.children, key=lambda child: _best_sort_value(child, goal)):
        row = _assign_rows(child, goal, row)
    rows: Sequence[float] = [leaf.row for leaf in node.leaves] + [c.row for c in node.children]
    node.row = (min(rows) + max(rows)) / 2 if rows else first_row
    return row if rows else row + 1  # who teaches beside others only has a line of its own


def _best_sort_value(node: TeacherNode, goal: Goal) -> float:
    return min(
        (_sort_value(leaf.best_value(goal), goal) for leaf in node.all_leaves()), default=math.inf
    )
