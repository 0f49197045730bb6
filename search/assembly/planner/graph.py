"""The graph of cuts, whose edges are neighbourhoods."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Edge:
    """A neighbourhood: a candidate between two cuts.

    ``tail`` and ``head`` are nodes, such as (position, width). The sum of ``score`` over an
    assembly is minimised; the sums of ``costs`` are limited by budgets.
    """

    tail: Hashable
    head: Hashable
    name: str
    score: float
    costs: Mapping[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether score and costs are finite; those of a diverged candidate are not."""
        return all(map(math.isfinite, (self.score, *self.costs.values())))


class DisconnectedGraph(ValueError):
    """No edges lead from the source to the sink.

    ``reached`` are the nodes reachable from the source that have no successor. ``awaiting`` are
    the nodes that lead to the sink and have no predecessor.
    """

    def __init__(
        self, reached: Collection[Hashable], awaiting: Collection[Hashable], dropped: int
    ) -> None:
        self.reached, self.awaiting = tuple(reached), tuple(awaiting)
        left_out = f" ({dropped} edges without finite figures were left out)" if dropped else ""
        super().__init__(
            f"nothing leads from {_format_nodes(self.reached)} "
            f"on to {_format_nodes(self.awaiting)}{left_out}"
        )


def _format_nodes(nodes: Sequence[Hashable], max_nodes: int = 8) -> str:
    more = f" and {len(nodes) - max_nodes} more" if len(nodes) > max_nodes else ""
    return ", ".join(map(str, nodes[:max_nodes])) + more


@dataclass(frozen=True)
class Graph:
    """The edges on paths from the source to the sink, sorted by their tails.

    Nodes are numbered so that every edge leads to a higher number: the source is 0, the sink is
    ``num_nodes`` - 1.
    """

    edges: tuple[Edge, ...]
    indices: tuple[int, ...]  # of ``edges`` among the given edges
    tails: NDArray[np.intp]
    heads: NDArray[np.intp]
    num_nodes: int

    @cached_property
    def scores(self) -> FloatArray:
        """The scores of the edges."""
        return np.array([edge.score for edge in self.edges])

    def score(self, path: Sequence[int]) -> float:
        """The summed score of a path, correctly rounded."""
        return math.fsum(self.scores[list(path)])

    def cost_values(self, cost: str) -> FloatArray:
        """One cost of every edge; a ValueError names an edge without it."""
        for edge in self.edges:
            if cost not in edge.costs:
                available = ", ".join(edge.costs) or "none"
                raise ValueError(f"edge {edge.name!r} has no cost {cost!r}; it has: {available}")
        return np.array([edge.costs[cost] for edge in self.edges])

    def subset(self, kept_edges: NDArray[np.bool_]) -> Graph:
        """The graph with only ``kept_edges``; the nodes keep their numbers."""
        indices = np.flatnonzero(kept_edges)
        return Graph(
            tuple(self.edges[i] for i in indices),
            tuple(self.indices[i] for i in indices),
            self.tails[kept_edges],
            self.heads[kept_edges],
            self.num_nodes,
        )

    def distance_to_sink(self, values: FloatArray) -> FloatArray:
        """The least sum from every node to the sink, infinite if there is no path."""
        distances = [math.inf] * self.num_nodes
        distances[-1] = 0.0
        arcs = zip(self.tails.tolist(), self.heads.tolist(), values.tolist(), strict=True)
        for tail, head, value in reversed(list(arcs)):
            distances[tail] = min(distances[tail], value + distances[head])
        return np.array(distances)

    def distance_through(self, values: FloatArray) -> FloatArray:
        """For every edge, the least sum of a path through it."""
        distances = [math.inf] * self.num_nodes
        distances[0] = 0.0
        arcs = zip(self.tails.tolist(), self.heads.tolist(), values.tolist(), strict=True)
        for tail, head, value in arcs:
            distances[head] = min(distances[head], distances[tail] + value)
        sums: FloatArray = (
            np.array(distances)[self.tails] + values + self.distance_to_sink(values)[self.heads]
        )
        return sums

    def ordered_path(self, edges: Sequence[int]) -> tuple[int, ...]:
        """``edges`` in the order of their path; an ArithmeticError if they are no path."""
        ordered = tuple(sorted(edges, key=lambda edge: int(self.tails[edge])))
        path_nodes = [0, *(int(self.heads[edge]) for edge in ordered)]
        if [*(int(self.tails[edge]) for edge in ordered), self.num_nodes - 1] != path_nodes:
            raise ArithmeticError("the solver's answer is no path from the source to the sink")
        return ordered


def build_graph(edges: Sequence[Edge], source: Hashable, sink: Hashable) -> Graph:
    """The graph of the edges with finite values that lie on paths from source to sink.

    Raises:
        DisconnectedGraph: no path leads from source to sink.
        ValueError: the edges have a cycle, or the sink is the source.
    """
    if source == sink:
        raise ValueError(f"the source is the sink: {source}")
    finite_edges = [i for i, edge in enumerate(edges) if edge.is_finite]
    from_source = _reachable(source, [(edges[i].tail, edges[i].head) for i in finite_edges])
    to_sink = _reachable(sink, [(edges[i].head, edges[i].tail) for i in finite_edges])
    if sink not in from_source:
        nodes_leading_on = {edges[i].tail for i in finite_edges if edges[i].head in from_source}
        nodes_reached_from = {edges[i].head for i in finite_edges if edges[i].tail in to_sink}
        raise DisconnectedGraph(
            [node for node in from_source if node not in nodes_leading_on],
            [node for node in to_sink if node not in nodes_reached_from],
            len(edges) - len(finite_edges),
        )
    used_edges = [
        i for i in finite_edges if edges[i].tail in from_source and edges[i].head in to_sink
    ]
    node_numbers = _topological_numbers([edges[i] for i in used_edges])
    used_edges.sort(key=lambda i: node_numbers[edges[i].tail])
    return Graph(
        tuple(edges[i] for i in used_edges),
        tuple(used_edges),
        np.array([node_numbers[edges[i].tail] for i in used_edges]),
        np.array([node_numbers[edges[i].head] for i in used_edges]),
        len(node_numbers),
    )


def _reachable(start: Hashable, arcs: Sequence[tuple[Hashable, Hashable]]) -> dict[Hashable, None]:
    """The nodes reachable from ``start``, in breadth-first order."""
    successors: dict[Hashable, list[Hashable]] = {}
    for tail, head in arcs:
        successors.setdefault(tail, []).append(head)
    reached: dict[Hashable, None] = {start: None}
    pending = deque([start])
    while pending:
        for head in successors.get(pending.popleft(), ()):
            if head not in reached:
                reached[head] = None
                pending.append(head)
    return reached


def _topological_numbers(edges: Sequence[Edge]) -> dict[Hashable, int]:
    """Numbers of the nodes in a topological order; a ValueError if there is none."""
    successors: dict[Hashable, list[Hashable]] = {}
    in_degree: dict[Hashable, int] = {}
    for edge in edges:
        successors.setdefault(edge.tail, []).append(edge.head)
        in_degree[edge.head] = in_degree.get(edge.head, 0) + 1
    order = [node for node in successors if node not in in_degree]
    for node in order:  # the loop appends to it
        for head in successors.get(node, ()):
            in_degree[head] -= 1
            if in_degree[head] == 0:
                order.append(head)
    if cyclic_nodes := [node for node, count in in_degree.items() if count]:
        raise ValueError(f"the edges run in a circle through {_format_nodes(cyclic_nodes)}")
    return {node: number for number, node in enumerate(order)}
