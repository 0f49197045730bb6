"""The Pareto front of score against one cost."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from stillhouse.search.assembly.planner.assemblies import NOTHING, Assembly, assembly, rows_of
from stillhouse.search.assembly.planner.budget import Budget, Row
from stillhouse.search.assembly.planner.graph import Edge, Graph, graph_of
from stillhouse.search.assembly.planner.infeasible import explained
from stillhouse.search.assembly.planner.program import Path, cheapest

_UNBOUND: Mapping[str, Budget] = MappingProxyType({})
_RESOLUTION = 1e-6
"""Part of the range of costs within which two assemblies count as of one cost."""
_TELLS_APART = 1e-8
"""Part of the dearest edge's cost that the solver is sure to tell apart."""


def front(
    edges: Sequence[Edge],
    source: Hashable,
    sink: Hashable,
    cost: str,
    budgets: Mapping[str, Budget] = _UNBOUND,
    *,
    fixed: Mapping[str, float] = NOTHING,
    points: int = 8,
) -> list[Assembly]:
    """Assemblies that none beats in both score and one cost, the best score first.

    Found by the epsilon constraint method: from the best assembly of all and the cheapest, the
    widest unexplored range of the cost is halved again and again, so that the points spread over
    the range. All there are if they are no more than ``points``, apart from those within a
    millionth of the range of another.

    Args and errors are those of :func:`stillhouse.search.assembly.planner.assemblies`; ``cost`` is
    the name of the cost, which may have a budget of its own, and ``points`` the most that come.
    """
    if points < 1:
        raise ValueError(f"a front has 1 or more points, found {points}")
    graph = graph_of(edges, source, sink)
    rows = rows_of(graph, {cost: Budget(), **budgets}, fixed)
    sought = _Search(graph, rows.pop(cost), tuple(rows.values()))
    best = sought.least(math.inf)
    if best is None:
        raise explained(graph, rows_of(graph, budgets, fixed))
    return [assembly(graph, path, fixed) for path in sought.spread(best, points)]


@dataclass(frozen=True)
class _Gap:
    """Costs between two assemblies of the front, not yet explored; the ends are.

    ``upper`` is set where the lower half was found empty, so that the rest is asked for at once.
    """

    start: float
    end: float
    upper: bool = False


@dataclass(frozen=True)
class _Search:
    """Solves for the best score up to a cost."""

    graph: Graph
    cost: Row
    others: tuple[Row, ...]

    def least(self, most: float) -> Path | None:
        """Of the paths of best score up to a cost, the cheapest."""
        limit = min(most, self.cost.budget.highest)
        if limit < self.cost.budget.lowest:
            return None
        rows = [*self.others, replace(self.cost, budget=replace(self.cost.budget, most=limit))]
        path = cheapest(self.graph, self.graph.scores, rows)
        if path is None:
            return None
        alike = Row(self.graph.scores, Budget(most=self._score(path)))
        # where scores are alike to the solver's tolerance only, it may miss even the path known
        return cheapest(self.graph, self.cost.values, [*rows, alike]) or path

    def spread(self, best: Path, points: int) -> list[Path]:
        """Paths of the front from the best score downwards in cost."""
        lowest = cheapest(self.graph, self.cost.values, [*self.others, self.cost])
        assert lowest is not None, "the best path is one"
        lowest = self.least(self.cost.total(lowest)) or lowest
        high, low = self.cost.total(best), self.cost.total(lowest)
        found = {high: best, low: lowest} if points > 1 else {high: best}
        step = max(_RESOLUTION * (high - low), _TELLS_APART * self.cost.scale)
        gaps = [_Gap(low, high)]
        while gaps and len(found) < points:
            gap = max(gaps, key=lambda gap: gap.end - gap.start)
            gaps.remove(gap)
            if gap.end - gap.start > step:
                gaps += self._explored(gap, step, found)
        return self._front(found)

    def _explored(self, gap: _Gap, step: float, found: dict[float, Path]) -> list[_Gap]:
        """What is left of a gap; a path from within it is added to those found."""
        middle = (gap.start + gap.end) / 2
        path = self.least(gap.end - step if gap.upper else middle)
        value = self.cost.total(path) if path else gap.start
        if path is None or value <= gap.start:
            return [] if gap.upper else [_Gap(middle, gap.end, upper=True)]
        found[value] = path
        return [_Gap(gap.start, value)] + ([] if gap.upper else [_Gap(middle, gap.end)])

    def _front(self, found: Mapping[float, Path]) -> list[Path]:
        """Those of the paths that are not beaten, for solves differ within tolerances."""
        kept: list[Path] = []
        for _, path in sorted(found.items()):
            if not kept or self._score(path) < self._score(kept[-1]):
                kept.append(path)
        return kept[::-1]

    def _score(self, path: Path) -> float:
        return math.fsum(self.graph.scores[list(path)])
