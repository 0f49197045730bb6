"""The graph of cuts: which neighbourhoods may follow which."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Edge:
    """A neighbourhood: what may stand between two cuts.

    ``tail`` and ``head`` are nodes of the graph of cuts, such as (position, width); ``score`` is
    added up over an assembly and minimised, ``costs`` are added up and kept within budgets.
    """

    tail: Hashable
    head: Hashable
    name: str
    score: float
    costs: Mapping[str, float]

    @property
    def finite(self) -> bool:
        """Whether all its figures are numbers; those of a candidate that diverged are not."""
        return all(map(math.isfinite, (self.score, *self.costs.values())))


class Disconnected(ValueError):
    """No edges lead from the source to the sink.

    ``reached`` are the nodes that the source leads to and that lead nowhere; ``awaiting`` those
    that lead to the sink and that nothing leads to.
    """

    def __init__(
        self, reached: Collection[Hashable], awaiting: Collection[Hashable], dropped: int
    ) -> None:
        self.reached, self.awaiting = tuple(reached), tuple(awaiting)
        left_out = f" ({dropped} edges without finite figures were left out)" if dropped else ""
        super().__init__(
            f"nothing leads from {_listed(self.reached)} on to {_listed(self.awaiting)}{left_out}"
        )


def _listed(nodes: Sequence[Hashable], most: int = 8) -> str:
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(map(str, nodes[:most])) + more


@dataclass(frozen=True)
class Graph:
    """Those edges that some path from the source to the sink takes, sorted by their tails.

    Nodes are numbered so that every edge leads to a higher number: the source is 0, the sink is
    ``nodes`` - 1.
    """

    edges: tuple[Edge, ...]
    indices: tuple[int, ...]  # of ``edges``, among the edges that were given
    tails: NDArray[np.intp]
    heads: NDArray[np.intp]
    nodes: int

    @cached_property
    def scores(self) -> Values:
        """The scores of the edges."""
        return np.array([edge.score for edge in self.edges])

    def costs(self, name: str) -> Values:
        """One cost of every edge; a ValueError names an edge that does not tell it."""
        for edge in self.edges:
            if name not in edge.costs:
                told = ", ".join(edge.costs) or "none"
                raise ValueError(f"edge {edge.name!r} has no cost {name!r}; it has: {told}")
        return np.array([edge.costs[name] for edge in self.edges])

    def subset(self, kept: NDArray[np.bool_]) -> Graph:
        """The graph without some edges; the nodes keep their numbers."""
        places = np.flatnonzero(kept)
        return Graph(
            tuple(self.edges[i] for i in places),
            tuple(self.indices[i] for i in places),
            self.tails[kept],
            self.heads[kept],
            self.nodes,
        )

    def onward(self, values: Values) -> Values:
        """The least sum from every node to the sink, infinite where it is out of reach."""
        least = [math.inf] * self.nodes
        least[-1] = 0.0
        steps = zip(self.tails.tolist(), self.heads.tolist(), values.tolist(), strict=True)
        for tail, head, value in reversed(list(steps)):
            least[tail] = min(least[tail], value + least[head])
        return np.array(least)

    def through(self, values: Values) -> Values:
        """The least sum of a whole path that takes an edge, for every edge."""
        least = [math.inf] * self.nodes
        least[0] = 0.0
        steps = zip(self.tails.tolist(), self.heads.tolist(), values.tolist(), strict=True)
        for tail, head, value in steps:
            least[head] = min(least[head], least[tail] + value)
        sums: Values = np.array(least)[self.tails] + values + self.onward(values)[self.heads]
        return sums

    def path(self, chosen: Sequence[int]) -> tuple[int, ...]:
        """Edges of ``edges`` in the order of their path, which they are checked to make up."""
        ordered = tuple(sorted(chosen, key=lambda edge: int(self.tails[edge])))
        stops = [0, *(int(self.heads[edge]) for edge in ordered)]
        if [*(int(self.tails[edge]) for edge in ordered), self.nodes - 1] != stops:
            raise ArithmeticError("the solver's answer is no path from the source to the sink")
        return ordered


def graph_of(edges: Sequence[Edge], source: Hashable, sink: Hashable) -> Graph:
    """The graph of those edges that have finite figures and lie between source and sink.

    Raises:
        Disconnected: they leave a gap.
        ValueError: they run in a circle, or the sink is the source.
    """
    if source == sink:
        raise ValueError(f"the source is the sink: {source}")
    finite = [i for i, edge in enumerate(edges) if edge.finite]
    forward = _reach(source, [(edges[i].tail, edges[i].head) for i in finite])
    backward = _reach(sink, [(edges[i].head, edges[i].tail) for i in finite])
    if sink not in forward:
        leading = {edges[i].tail for i in finite if edges[i].head in forward}
        awaited = {edges[i].head for i in finite if edges[i].tail in backward}
        raise Disconnected(
            [node for node in forward if node not in leading],
            [node for node in backward if node not in awaited],
            len(edges) - len(finite),
        )
    used = [i for i in finite if edges[i].tail in forward and edges[i].head in backward]
    number = _numbers([edges[i] for i in used])
    used.sort(key=lambda i: number[edges[i].tail])
    return Graph(
        tuple(edges[i] for i in used),
        tuple(used),
        np.array([number[edges[i].tail] for i in used]),
        np.array([number[edges[i].head] for i in used]),
        len(number),
    )


def _reach(start: Hashable, arcs: Sequence[tuple[Hashable, Hashable]]) -> dict[Hashable, None]:
    """The nodes that arcs lead to from a start, in the order in which they are found."""
    leads: dict[Hashable, list[Hashable]] = {}
    for tail, head in arcs:
        leads.setdefault(tail, []).append(head)
    found: dict[Hashable, None] = {start: None}
    pending = deque([start])
    while pending:
        for head in leads.get(pending.popleft(), ()):
            if head not in found:
                found[head] = None
                pending.append(head)
    return found


def _numbers(edges: Sequence[Edge]) -> dict[Hashable, int]:
    """Numbers of the nodes in a topological order; a ValueError if there is none."""
    leads: dict[Hashable, list[Hashable]] = {}
    waiting: dict[Hashable, int] = {}
    for edge in edges:
        leads.setdefault(edge.tail, []).append(edge.head)
        waiting[edge.head] = waiting.get(edge.head, 0) + 1
    order = [node for node in leads if node not in waiting]
    for node in order:  # grows as it is walked
        for head in leads.get(node, ()):
            waiting[head] -= 1
            if waiting[head] == 0:
                order.append(head)
    if circling := [node for node, count in waiting.items() if count]:
        raise ValueError(f"the edges run in a circle through {_listed(circling)}")
    return {node: number for number, node in enumerate(order)}
