"""Calibration against closed forms."""

import math

import numpy as np
import pytest

from stillhouse.search.assembly.calibration import agreement, calibrate, fit
from stillhouse.search.assembly.planner import Budget, Edge, assemblies


def grid(rng, places=6, names=("kept", "bottleneck", "ghost")):
    """Candidates one after the other; index 3 * place + candidate."""
    return [
        Edge(place, place + 1, name, rng.uniform(0.1, 1), {"latency_ms": rng.uniform(0.1, 1)})
        for place in range(places)
        for name in names
    ]


def drawn(rng, count, places=6):
    """Random assemblies."""
    return {tuple(3 * p + int(rng.integers(3)) for p in range(places)) for _ in range(count)}


def test_one_kind_is_the_ordinary_line():
    rng = np.random.default_rng(0)
    x, noise = rng.uniform(1, 4, 30), rng.normal(0, 0.1, 30)
    y = 3.0 + 0.5 * x + noise
    found = fit([{"all": value} for value in x], y)
    slope, intercept = np.polyfit(x, y, 1)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept))
    assert found.factors == pytest.approx({"all": slope})
    assert found.residual == pytest.approx(np.std(y - slope * x - intercept))
    assert found.predict({"all": 2.0}) == pytest.approx(intercept + 2 * slope)


def test_factors_are_the_ridge_solution():
    """Against the normal equations of slope, factors and intercept."""
    rng = np.random.default_rng(1)
    sums = rng.uniform(0.5, 2, (25, 2))
    y = 1 + sums @ [0.4, 1.6] + rng.normal(0, 0.05, 25)
    ridge = 2.0
    found = fit([{"a": a, "b": b} for a, b in sums], y, ridge=ridge)
    weight = math.sqrt(ridge * np.var(sums.sum(axis=1)))
    design = np.vstack(
        [
            np.column_stack([np.ones(25), np.zeros(25), sums]),
            weight * np.array([[0, -1, 1, 0], [0, -1, 0, 1]]),
        ]
    )
    expected = np.linalg.lstsq(design, np.concatenate([y, [0, 0]]), rcond=None)[0]
    assert found.intercept == pytest.approx(expected[0])
    assert found.slope == pytest.approx(expected[1])
    assert [found.factors["a"], found.factors["b"]] == pytest.approx(expected[2:])
    assert found.factor_of("never seen") == found.slope


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_factors_are_found_where_data_tell_them(unit):
    """Of many measurements the ridge leaves nothing; units do not matter."""
    rng = np.random.default_rng(2)
    sums = rng.uniform(0.5, 2, (2000, 3)) * unit
    found = fit([dict(zip("abc", row, strict=True)) for row in sums], 7 + sums @ [0.5, 1, 2])
    assert [found.factors[k] for k in "abc"] == pytest.approx([0.5, 1, 2], rel=0.02)


def test_no_factor_falls_below_zero():
    """Predictions that rank the wrong way round are given no weight instead of turned about."""
    found = fit([{"all": float(x)} for x in range(5)], [5.0, 4.0, 3.0, 2.0, 1.0])
    assert found.slope == pytest.approx(0, abs=1e-9)
    assert found.intercept == pytest.approx(3.0)


def test_latency_of_whole_networks_is_met_after_calibration():
    """True latency = 0.3 ms + 0.8 of the sum; the corrected plan adds up to it."""
    rng = np.random.default_rng(3)
    edges = grid(rng)
    truth = {
        path: 0.3 + 0.8 * math.fsum(edges[i].costs["latency_ms"] for i in path)
        for path in drawn(rng, 12)
    }
    found = calibrate(edges, truth, cost="latency_ms")
    assert found.intercept == pytest.approx(0.3)
    assert found.agreement_after.mean_absolute_error == pytest.approx(0, abs=1e-9)
    assert found.agreement_left_out.mean_absolute_error == pytest.approx(0, abs=1e-9)
    assert found.agreement_before.mean_absolute_error > 0.1
    assert found.agreement_before.spearman == pytest.approx(1.0)
    budget = {"latency_ms": Budget(maximum=2.5)}
    (plan,) = assemblies(found.edges, 0, 6, budget, fixed_costs={"latency_ms": found.intercept})
    sums = [edges[i].costs["latency_ms"] for i in plan.edges]
    assert plan.costs["latency_ms"] == pytest.approx(0.3 + 0.8 * math.fsum(sums))
    assert [e.score for e in found.edges] == [e.score for e in edges]


def test_no_cost_has_an_intercept_below_zero():
    """Whole networks that gain more than a part each would be free, or less, when small."""
    parts = [{"all": 1.0}, {"all": 2.0}, {"all": 4.0}]
    truth = [0.5, 2.0, 5.0]
    assert fit(parts, truth).intercept == pytest.approx(-1.0)
    kept = fit(parts, truth, min_intercept=0.0)
    sums = np.array([1.0, 2.0, 4.0])
    assert kept.intercept == 0.0
    assert kept.slope == pytest.approx(sums @ np.array(truth) / (sums @ sums))
    assert kept.predict({"all": 0.1}) > 0
    assert fit(parts, [2.0, 3.0, 5.0], min_intercept=0.0).intercept == pytest.approx(1.0)
    times = {(0,): 0.5, (1,): 2.0, (2,): 5.0}
    edges = [Edge(0, 1, f"{t}", 0.0, {"latency_ms": t}) for t in (1.0, 2.0, 4.0)]
    assert calibrate(edges, times, cost="latency_ms").intercept == 0.0


def test_a_correction_helps_if_it_foretells_what_was_left_out():
    edges = [Edge(0, 1, f"{t}", 0.0, {"latency_ms": t}) for t in (1.0, 2.0, 3.0, 4.0)]
    twice = {(i,): 2.0 * edge.costs["latency_ms"] for i, edge in enumerate(edges)}
    assert calibrate(edges, twice, cost="latency_ms").is_helpful
    same = {(i,): edge.costs["latency_ms"] for i, edge in enumerate(edges)}
    assert not calibrate(edges, same, cost="latency_ms").is_helpful


def test_scores_of_kinds_are_corrected_and_the_plan_changes():
    """A kind whose errors count tenfold in the whole is no longer taken."""
    rng = np.random.default_rng(4)
    edges = grid(rng)
    weight = {"kept": 1.0, "bottleneck": 1.0, "ghost": 10.0}
    truth = {
        path: math.fsum(weight[edges[i].name] * edges[i].score for i in path)
        for path in drawn(rng, 60)
    }
    found = calibrate(edges, truth, grouping=lambda edge: edge.name, ridge=1e-3)
    assert dict(found.model.factors) == pytest.approx(weight, rel=0.1, abs=0.2)
    assert found.agreement_after.spearman > found.agreement_before.spearman
    assert found.agreement_after.kendall > found.agreement_before.kendall
    assert (
        found.agreement_left_out.mean_absolute_error
        < found.agreement_before.mean_absolute_error / 10
    )

    def taken(given):
        return sum(edges[i].name == "ghost" for i in assemblies(given, 0, 6, {})[0].edges)

    assert taken(found.edges) < taken(edges)


def test_agreement():
    assert agreement([1, 2, 3], [2, 3, 4]).mean_absolute_error == 1.0
    assert agreement([1, 2, 3, 4], [1, 2, 4, 3]).spearman == pytest.approx(0.8)
    assert agreement([1, 2, 3, 4], [1, 2, 4, 3]).kendall == pytest.approx(4 / 6)
    assert math.isnan(agreement([1, 1], [1, 2]).spearman)


def test_too_little_or_broken_data_is_an_error():
    with pytest.raises(ValueError, match="3 or more assemblies must be measured, found 2"):
        fit([{"all": 1.0}, {"all": 2.0}], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        fit([{"all": 1.0}] * 3, [1.0, 2.0, math.nan])
