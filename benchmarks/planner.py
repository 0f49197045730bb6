"""The planner's time for the best assemblies of a teacher of 27 blocks under 3 budgets.

Every interval of up to 4 blocks has 12 candidates, which trade score against parameters, FLOPs and
latency; one width at each cut makes about 10^30 assemblies, 3 widths about 10^41. Budgets are 40 %
of the way from the cost of the cheapest assembly to that of the best, so they bind. The figures are
medians over several random graphs.

    one width:     the best assembly, within 1 second
    three widths:  the best assembly, within 10 seconds
    16 best:       of one width, within 30 seconds

The ratio is the lowest of allowed time divided by measured time: 1 or more meets the target.

    python benchmarks/planner.py [--graphs 5] [--cuts 27]

Exit status 1 if a case takes longer than allowed.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from typing import cast

import numpy as np
from _outcome import arguments, outcome

from stillhouse.search.assembly.planner import Budget, Edge, assemblies

COSTS = ("parameters", "flops", "latency_ms")
LONGEST, CANDIDATES = 4, 12
TIGHTNESS = 0.4
CASES = (("one width", 1, 1, 1.0), ("three widths", 3, 1, 10.0), ("16 best", 1, 16, 30.0))
"""Name, widths at inner cuts, number of assemblies, allowed seconds."""
TARGET = 1.0


def graph(seed: int, cuts: int, widths: int) -> list[Edge]:
    """Neighbourhoods; longer and cheaper ones have higher (worse) scores."""
    rng = np.random.default_rng(seed)
    edges = []
    for tail, head in itertools.combinations(range(cuts + 1), 2):
        if head - tail <= LONGEST:
            ends = (range(1 if place in (0, cuts) else widths) for place in (tail, head))
            for (a, b), name in itertools.product(itertools.product(*ends), range(CANDIDATES)):
                width = (1 - 0.25 * a) * (1 - 0.25 * b)
                figures = neighbourhood(rng, head - tail, width)
                score, costs = figures[0], dict(zip(COSTS, figures[1:], strict=True))
                edges.append(Edge((tail, a), (head, b), str(name), score, costs))
    return edges


def neighbourhood(rng: np.random.Generator, length: int, width: float) -> tuple[float, ...]:
    """Score, parameters, FLOPs and latency of one candidate."""
    ratio = rng.uniform(0.05, 1)
    return (
        0.05 * length**1.3 / math.sqrt(ratio * width) * rng.lognormal(0, 0.4),
        float(round(1e4 * length * ratio * width * rng.uniform(0.8, 1.2))),
        float(round(1e6 * length * ratio * width * rng.uniform(0.6, 1.4))),
        length**0.7 * math.sqrt(ratio) * width * rng.uniform(0.7, 1.3),
    )


def number(edges: list[Edge], source: object, sink: object) -> int:
    """The number of possible assemblies."""
    ways = {source: 1}
    for edge in sorted(edges, key=lambda edge: cast(tuple[int, int], edge.tail)[0]):
        ways[edge.head] = ways.get(edge.head, 0) + ways.get(edge.tail, 0)
    return ways[sink]


def binding(edges: list[Edge], source: object, sink: object) -> dict[str, Budget]:
    """Budgets between the costs of the cheapest assembly and the best."""
    (free,) = assemblies(edges, source, sink, {})
    budgets = {}
    for cost in COSTS:
        priced = [Edge(e.tail, e.head, e.name, e.costs[cost], e.costs) for e in edges]
        least = assemblies(priced, source, sink, {})[0].score
        budgets[cost] = Budget(maximum=least + TIGHTNESS * (free.costs[cost] - least))
    return budgets


def seconds(seed: int, cuts: int, widths: int, best: int) -> tuple[float, int]:
    """Seconds of one call, and the number of assemblies to choose from."""
    edges, source, sink = graph(seed, cuts, widths), (0, 0), (cuts, 0)
    budgets = binding(edges, source, sink)
    started = time.perf_counter()
    found = assemblies(edges, source, sink, budgets, count=best)
    taken = time.perf_counter() - started
    assert len(found) == best
    assert all(budget.contains(each.costs[c]) for each in found for c, budget in budgets.items())
    return taken, number(edges, source, sink)


def main() -> int:
    """Every case on every graph, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=5)
    parser.add_argument("--cuts", type=int, default=27)
    args = arguments(parser, graphs=1, cuts=6)
    print(f"{'':14} {'assemblies':>10} {'median s':>9} {'longest s':>9} {'allowed s':>9}")
    ratios = []
    for name, widths, best, allowed in CASES:
        taken = [seconds(seed, args.cuts, widths, best) for seed in range(args.graphs)]
        median = statistics.median(each for each, _ in taken)
        longest, count = max(each for each, _ in taken), f"10^{math.log10(taken[0][1]):.0f}"
        print(f"{name:14} {count:>10} {median:9.2f} {longest:9.2f} {allowed:9.0f}", flush=True)
        ratios.append(allowed / median)
    return outcome("planner", min(ratios), TARGET, args)


if __name__ == "__main__":
    sys.exit(main())
