"""The tree of chains: who taught whom, from the teacher at the root to the students."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core.participants import Cast, Shared, Student


@dataclass
class Leaf:
    """Students of one network that learnt from the same teachers.

    ``others`` holds keys of the teachers beside the one that it hangs from.
    """

    network: str
    students: list[Student]
    others: tuple[str, ...] = ()
    row: int = 0

    def best(self, goal: Goal) -> float:
        """The figure of the best one that finished; not a number if none did."""
        done = [s.figure(goal.figure) for s in self.students if s.trial.state == "finished"]
        known = [value for value in done if math.isfinite(value)]
        return (max if goal.maximize else min)(known) if known else math.nan


@dataclass
class Node:
    """A teacher or an assistant, what it taught, and where it stands.

    ``others`` holds keys of further teachers it learnt from that stand on other lines;
    ``line`` keys of all before it on its own, of which it learnt from several if ``dense``.
    """

    shared: Shared
    depth: int
    nodes: list[Node] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)
    others: tuple[str, ...] = ()
    dense: bool = False
    line: frozenset[str] = frozenset()
    row: float = 0.0

    def walk(self) -> Iterator[Node]:
        """This node and all below, parents first."""
        yield self
        for node in self.nodes:
            yield from node.walk()

    def all_leaves(self) -> Iterator[Leaf]:
        for node in self.walk():
            yield from node.leaves


@dataclass(frozen=True)
class Forest:
    """One tree a teacher, over ``rows`` lines. ``left_out`` leaves were too many to show."""

    roots: tuple[Node, ...]
    left_out: int
    rows: int

    @property
    def nodes(self) -> list[Node]:
        return [node for root in self.roots for node in root.walk()]

    @property
    def leaves(self) -> list[Leaf]:
        return [leaf for root in self.roots for leaf in root.all_leaves()]

    @property
    def depth(self) -> int:
        return max(node.depth for node in self.nodes)

    def best(self, goal: Goal) -> Leaf | None:
        """The leaf that holds the best student; none where no student finished."""
        best = min(self.leaves, key=lambda leaf: _rank(leaf.best(goal), goal), default=None)
        return best if best and math.isfinite(best.best(goal)) else None


def forest(cast: Cast, goal: Goal, most: int) -> Forest:
    """The trees of all students who had a teacher, cut down to the ``most`` best leaves.

    Whoever learnt from several hangs from the last: in a dense chain, the closest one.
    """
    leaves: dict[tuple[tuple[str, ...], str], Leaf] = {}
    for student in cast.students:
        if student.taught_by:
            place = student.taught_by, student.network or student.label
            leaves.setdefault(place, Leaf(place[1], [])).students.append(student)
    order = sorted(leaves, key=lambda place: _rank(leaves[place].best(goal), goal))
    kept = {place: leaves[place] for place in order[:most]}
    roots = _grow(cast, kept)
    row = 0
    for root in roots:
        row = _lay_out(root, goal, row)
    return Forest(tuple(roots), len(leaves) - len(kept), row)


def _rank(value: float, goal: Goal) -> float:
    """Smaller is better; what is not a number comes last."""
    if math.isnan(value):
        return math.inf
    return -value if goal.maximize else value


def _grow(cast: Cast, leaves: dict[tuple[tuple[str, ...], str], Leaf]) -> list[Node]:
    """Nodes for every teacher that a leaf rests on, hung below each other."""
    nodes: dict[str, Node] = {}
    roots: list[Node] = []

    def node(key: str) -> Node:
        if key not in nodes:
            shared = cast.shared[key]
            above = [parent for parent in shared.record.parents if parent in cast.shared]
            before = node(above[-1]) if above else None
            line = {before.shared.key} | before.line if before else set()
            others = tuple(parent for parent in above if parent not in line)
            depth, dense = before.depth + 1 if before else 0, len(line & set(above)) > 1
            nodes[key] = Node(shared, depth, others=others, dense=dense, line=frozenset(line))
            (before.nodes if before else roots).append(nodes[key])
        return nodes[key]

    for (teachers, _), leaf in leaves.items():
        closest = node(teachers[-1])
        closest.leaves.append(leaf)
        line = closest.line | {closest.shared.key}
        leaf.others = tuple(key for key in teachers if key not in line and key in cast.shared)
        for key in leaf.others:
            node(key)
    return roots


def _lay_out(node: Node, goal: Goal, row: int) -> int:
    """Give rows to all leaves below, from ``row`` on, the best branch first; the next free row."""
    first = row
    for leaf in sorted(node.leaves, key=lambda leaf: _rank(leaf.best(goal), goal)):
        leaf.row = row
        row += 1
    for child in sorted(node.nodes, key=lambda child: _best(child, goal)):
        row = _lay_out(child, goal, row)
    rows: Sequence[float] = [leaf.row for leaf in node.leaves] + [c.row for c in node.nodes]
    node.row = (min(rows) + max(rows)) / 2 if rows else first
    return row if rows else row + 1  # who teaches beside others only has a line of its own


def _best(node: Node, goal: Goal) -> float:
    return min((_rank(leaf.best(goal), goal) for leaf in node.all_leaves()), default=math.inf)
