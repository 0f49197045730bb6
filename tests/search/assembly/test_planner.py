"""The planner against brute force, and against a dynamic program written another way."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from stillhouse.search.assembly.planner import (
    Budget,
    DisconnectedGraph,
    Edge,
    InfeasibleBudgets,
    assemblies,
    pareto_front,
)

COSTS = ("parameters", "flops", "latency_ms")


def random_edges(rng, cuts=4, longest=3, candidates=3, widths=1, whole=True):
    """Edges between the nodes (position, width) of a small graph of cuts."""
    edges = []
    for tail, head in itertools.combinations(range(cuts + 1), 2):
        for a, b in itertools.product(range(widths), repeat=2):
            if head - tail > longest or (a and not tail) or (b and head == cuts):
                continue
            for candidate in range(rng.integers(1, candidates + 1)):
                figures = rng.integers(0, 12, 4) if whole else rng.uniform(0.1, 1.0, 4)
                score, *values = map(float, figures)
                costs_by_name = dict(zip(COSTS, values, strict=True))
                edges.append(Edge((tail, a), (head, b), f"c{candidate}", score, costs_by_name))
    return edges, (0, 0), (cuts, 0)


def all_paths(edges, node, sink):
    """The indices of the edges of every path."""
    if node == sink:
        yield ()
    for index, edge in enumerate(edges):
        if edge.tail == node:
            for rest in all_paths(edges, edge.head, sink):
                yield (index, *rest)


def total(edges, path, cost, fixed=0.0):
    return math.fsum([fixed, *(edges[i].costs[cost] for i in path)])


def score(edges, path):
    return math.fsum(edges[i].score for i in path)


def kept(edges, path, budgets, fixed):
    for cost, budget in budgets.items():
        value = total(edges, path, cost, fixed.get(cost, 0.0))
        if budget.maximum is not None and value > budget.maximum:
            return False
        if budget.minimum is not None and value < budget.minimum:
            return False
    return True


def random_budgets(rng, edges, paths, whole):
    """One to three budgets with ends at costs that paths have, met or not."""
    budgets = {}
    for cost in rng.permutation(COSTS)[: rng.integers(1, 4)]:
        values = [total(edges, path, cost) for path in paths]
        low, high = sorted(rng.choice(values, 2))
        if whole:
            low, high = low - rng.integers(0, 3), high + rng.integers(-3, 1)
        high = max(low, high)
        kinds = (Budget(maximum=high), Budget(minimum=low), Budget(maximum=high, minimum=low))
        tight = Budget(maximum=float(np.quantile(values, 0.15)))
        budgets[str(cost)] = (*kinds, tight)[rng.integers(4)]
    return budgets


def instance(seed):
    rng = np.random.default_rng(seed)
    whole = bool(seed % 2)
    sizes = {"cuts": int(rng.integers(2, 5)), "widths": int(rng.integers(1, 3))}
    if sizes["widths"] == 2:
        sizes |= {"candidates": 2, "cuts": min(sizes["cuts"], 3)}
    edges, source, sink = random_edges(rng, whole=whole, **sizes)
    paths = list(all_paths(edges, source, sink))
    budgets = random_budgets(rng, edges, paths, whole)
    fixed = {"parameters": 2.0} if rng.integers(2) else {}
    return edges, source, sink, paths, budgets, fixed


@pytest.mark.parametrize("block", range(10))
def test_equals_brute_force(block):
    """The five best of hundreds of random graphs, and an error where there is none."""
    infeasible = 0
    for seed in range(30 * block, 30 * block + 30):
        edges, source, sink, paths, budgets, fixed = instance(seed)
        feasible = [path for path in paths if kept(edges, path, budgets, fixed)]
        expected = sorted(score(edges, path) for path in feasible)[:5]
        if not feasible:
            infeasible += 1
            with pytest.raises(InfeasibleBudgets):
                assemblies(edges, source, sink, budgets, fixed_costs=fixed)
            continue
        best = 5 if seed % 3 else 1
        found = assemblies(edges, source, sink, budgets, fixed_costs=fixed, count=best)
        assert [each.score for each in found] == pytest.approx(expected[:best]), seed
        assert len({each.edges for each in found}) == len(found)
        for each in found:
            assert each.edges in feasible
            assert each.score == score(edges, each.edges)
            assert each.costs == {
                cost: total(edges, each.edges, cost, fixed.get(cost, 0.0)) for cost in COSTS
            }
    assert infeasible < 30


def distance(a, b):
    return min(len(set(a) - set(b)), len(set(b) - set(a)))


@pytest.mark.parametrize("seed", range(20))
def test_apart(seed):
    """Each is the best of those far enough from all better ones; distances hold for all pairs."""
    rng = np.random.default_rng(seed)
    edges, source, sink = random_edges(rng, whole=False)
    paths = sorted(all_paths(edges, source, sink), key=lambda path: score(edges, path))
    budgets = {"flops": Budget(maximum=total(edges, paths[len(paths) // 2], "flops"))}
    feasible = [path for path in paths if kept(edges, path, budgets, {})]
    apart = 2 + seed % 2
    expected = []
    for path in feasible:
        if all(distance(path, other) >= apart for other in expected):
            expected.append(path)
    found = assemblies(edges, source, sink, budgets, count=6, min_difference=apart)
    assert [each.edges for each in found] == expected[:6]


def dynamic_program(edges, sink_position, most):
    """Least score at every position and every whole sum of parameters: a knapsack's table."""
    table = np.full((sink_position + 1, most + 1), np.inf)
    table[0, 0] = 0.0
    for position in range(sink_position):
        for edge in edges:
            if edge.tail == position:
                spent = int(edge.costs["parameters"])
                if spent <= most:
                    moved = table[position, : most + 1 - spent] + edge.score
                    target = table[edge.head, spent:]
                    np.minimum(target, moved, out=target)
    return table[sink_position].min()


@pytest.mark.parametrize("seed", range(6))
def test_equals_a_dynamic_program(seed):
    """Fifteen positions, about 10^11 assemblies, one budget in whole parameters."""
    rng = np.random.default_rng(seed)
    edges = [
        Edge(tail, head, str(c), rng.lognormal(), {"parameters": float(rng.integers(1, 60))})
        for tail in range(15)
        for head in range(tail + 1, min(tail + 3, 15) + 1)
        for c in range(5)
    ]
    for most in (60, 120, 200):
        expected = dynamic_program(edges, 15, most)
        if math.isinf(expected):
            continue
        (found,) = assemblies(edges, 0, 15, {"parameters": Budget(maximum=most)})
        assert found.score == pytest.approx(expected, rel=1e-9)


def true_front(edges, paths, cost):
    """The pairs (score, cost) that no path beats."""
    pairs = sorted({(total(edges, p, cost), score(edges, p)) for p in paths})
    best, kept_pairs = math.inf, []
    for value, its_score in pairs:
        if its_score < best:
            best = its_score
            kept_pairs.append((its_score, value))
    return kept_pairs[::-1]


@pytest.mark.parametrize("seed", range(16))
def test_front_equals_brute_force(seed):
    """All of it where there is room, and a spread part of it where there is not."""
    rng = np.random.default_rng(seed)
    edges, source, sink = random_edges(rng, cuts=3, whole=bool(seed % 2))
    paths = list(all_paths(edges, source, sink))
    budgets = {}
    if seed % 4 > 1:
        budgets = {"flops": Budget(maximum=np.median([total(edges, p, "flops") for p in paths]))}
    feasible = [path for path in paths if kept(edges, path, budgets, {})]
    expected = true_front(edges, feasible, "latency_ms")
    found = pareto_front(edges, source, sink, "latency_ms", budgets, points=len(expected) + 1)
    assert [(p.score, p.costs["latency_ms"]) for p in found] == [
        pytest.approx(pair) for pair in expected
    ]
    few = pareto_front(edges, source, sink, "latency_ms", budgets, points=3)
    assert len(few) == min(3, len(expected))
    pairs = [(p.score, p.costs["latency_ms"]) for p in found]
    picked = [(p.score, p.costs["latency_ms"]) for p in few]
    assert set(picked) <= set(pairs)
    assert (picked[0], picked[-1]) == (pairs[0], pairs[-1])


def chain(*steps):
    """Candidates one after the other, each (score, cost) or (score, cost, other cost)."""
    names = ("parameters", "flops")
    return [
        Edge(place, place + 1, f"c{i}", s, dict(zip(names, costs, strict=False)))
        for place, candidates in enumerate(steps)
        for i, (s, *costs) in enumerate(candidates)
    ]


def test_an_infeasible_budget_is_named_with_what_it_could_be():
    edges = chain([(1, 10), (2, 7)], [(1, 20), (5, 15)])
    with pytest.raises(
        InfeasibleBudgets, match=r"parameters \(at most 20\).* smallest .* is 25"
    ) as told:
        assemblies(edges, 0, 2, {"parameters": Budget(maximum=20)}, fixed_costs={"parameters": 3})
    assert told.value.nearest == {"parameters": 25.0}
    granted = assemblies(
        edges, 0, 2, {"parameters": Budget(maximum=25)}, fixed_costs={"parameters": 3}
    )
    assert granted[0].costs == {"parameters": 25.0}
    with pytest.raises(InfeasibleBudgets, match=r"parameters \(at least 31\).* largest .* is 30"):
        assemblies(edges, 0, 2, {"parameters": Budget(minimum=31)})
    with pytest.raises(InfeasibleBudgets, match=r"smallest from there on feasible value is 27"):
        assemblies(edges, 0, 2, {"parameters": Budget(maximum=26, minimum=26)})


def test_budgets_that_exclude_each_other_are_named_together():
    edges = chain([(1, 10, 1), (1, 1, 10)], [(1, 10, 1), (1, 1, 10)])
    budgets = {"parameters": Budget(maximum=5), "flops": Budget(maximum=5)}
    with pytest.raises(
        InfeasibleBudgets, match="each budget can be met alone, but not all"
    ) as told:
        assemblies(edges, 0, 2, budgets)
    assert told.value.nearest == {"parameters": 20.0, "flops": 20.0}
    assert "parameters" in str(told.value)
    assert "flops" in str(told.value)


@pytest.mark.parametrize("seed", range(300, 340))
def test_what_is_told_as_feasible_is(seed):
    """Granted the nearest value, the budget is met; nearer than that, none is."""
    edges, source, sink, paths, budgets, fixed = instance(seed)
    cost = next(iter(budgets))
    cheapest = min(total(edges, path, cost, fixed.get(cost, 0.0)) for path in paths)
    with pytest.raises(InfeasibleBudgets) as told:
        assemblies(
            edges, source, sink, {cost: Budget(maximum=cheapest * 0.99 - 0.1)}, fixed_costs=fixed
        )
    assert told.value.nearest[cost] == pytest.approx(cheapest)
    granted = {cost: Budget(maximum=told.value.nearest[cost])}
    assert assemblies(edges, source, sink, granted, fixed_costs=fixed)


def test_a_gap_is_named():
    edges = [Edge((0, 8), (1, 8), "a", 1, {}), Edge((2, 8), (3, 8), "b", 1, {})]
    with pytest.raises(DisconnectedGraph, match=r"from \(1, 8\) on to \(2, 8\)$") as told:
        assemblies(edges, (0, 8), (3, 8), {})
    assert (told.value.reached, told.value.awaiting) == (((1, 8),), ((2, 8),))


def test_a_candidate_that_diverged_is_left_out():
    edges = [Edge(0, 1, "a", 1, {}), Edge(1, 2, "b", math.nan, {})]
    with pytest.raises(DisconnectedGraph, match=r"from 1 on to 2 \(1 edges without finite"):
        assemblies(edges, 0, 2, {})
    edges += [Edge(1, 2, "c", 5, {}), Edge(1, 2, "d", 1, {"flops": math.inf})]
    (found,) = assemblies(edges, 0, 2, {})
    assert (found.edges, found.score, found.costs) == ((0, 2), 6.0, {})


def test_dead_ends_are_not_in_the_way():
    edges = [Edge(0, 1, "a", 1, {}), Edge(0, 9, "dead end", 0, {}), Edge(8, 1, "no start", 0, {})]
    assert assemblies(edges, 0, 1, {})[0].edges == (0,)


def test_a_circle_is_an_error():
    edges = [Edge(0, 1, "a", 1, {}), Edge(1, 0, "back", 1, {}), Edge(1, 2, "b", 1, {})]
    with pytest.raises(ValueError, match="circle"):
        assemblies(edges, 0, 2, {})


def test_wrong_arguments_are_errors():
    edges = [Edge(0, 1, "a", 1, {"flops": 1})]
    with pytest.raises(ValueError, match="'a' has no cost 'bytes'; it has: flops"):
        assemblies(edges, 0, 1, {"bytes": Budget(maximum=1)})
    with pytest.raises(ValueError, match="no value lies within"):
        Budget(maximum=1, minimum=2)
    with pytest.raises(ValueError, match="best and apart"):
        assemblies(edges, 0, 1, {}, count=0)
    with pytest.raises(ValueError, match="source is the sink"):
        assemblies(edges, 0, 0, {})
    with pytest.raises(ValueError, match="not finite"):
        assemblies(edges, 0, 1, {"flops": Budget(maximum=1)}, fixed_costs={"flops": math.inf})


def test_a_budget_missed_by_the_last_digit_is_missed():
    """Many sums of 0.1 lie one digit above 2.7: none is returned, and the others still are."""
    edges = [
        Edge(i, i + 1, str(c), float(c), {"latency_ms": cost})
        for i in range(27)
        for c, cost in enumerate((0.1, 0.1, 0.05))
    ]
    above = total(edges, range(0, 81, 3), "latency_ms")
    most = math.nextafter(above, 0.0)
    (found,) = assemblies(edges, 0, 27, {"latency_ms": Budget(maximum=most)})
    assert found.costs["latency_ms"] <= most
    assert found.score == 2.0
    (found,) = assemblies(edges, 0, 27, {"latency_ms": Budget(maximum=above)})
    assert found.score == 0.0


def test_scores_of_any_magnitude_are_told_apart():
    """The solver's absolute tolerances are taken relative to the scores."""
    for unit in (1e-12, 1.0, 1e12):
        edges = chain([(3 * unit, 1), (2 * unit, 1)], [(1e-6 * unit, 1), (2e-6 * unit, 1)])
        (found,) = assemblies(edges, 0, 2, {"parameters": Budget(maximum=2)})
        assert found.edges == (1, 2)


@pytest.mark.parametrize("seed", range(20))
def test_scores_that_differ_by_orders_of_magnitude(seed):
    rng = np.random.default_rng(seed)
    edges, source, sink = random_edges(rng, whole=False)
    scores = rng.uniform(1, 9, len(edges)) * 10.0 ** rng.integers(-4, 5, len(edges))
    edges = [replace(edge, score=s) for edge, s in zip(edges, scores.tolist(), strict=True)]
    paths = list(all_paths(edges, source, sink))
    budgets = {"flops": Budget(maximum=float(np.median([total(edges, p, "flops") for p in paths])))}
    feasible = [score(edges, path) for path in paths if kept(edges, path, budgets, {})]
    found = assemblies(edges, source, sink, budgets, count=3)
    assert [each.score for each in found] == pytest.approx(sorted(feasible)[:3], rel=1e-9)


def test_fewer_come_where_there_are_no_more():
    edges = chain([(1, 1), (2, 1)], [(1, 1)])
    assert len(assemblies(edges, 0, 2, {}, count=9)) == 2
    assert len(assemblies(edges, 0, 2, {}, count=9, min_difference=2)) == 1
