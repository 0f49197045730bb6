"""Rankings, verdicts and fronts against definitions, scipy and scikit-learn."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from stillhouse.search.artifacts.record import Payload, Record
from stillhouse.search.core import formatting
from stillhouse.search.experiment.goal import Goal
from stillhouse.search.report.core.axes_choice import choose_metric_axes
from stillhouse.search.report.core.label_layout import (
    label_offsets,
    offset_to_free_space,
    robust_range,
    sideways_offsets,
    spread_apart,
)
from stillhouse.search.results.outcome import Outcome, SeedRuns, TrialResult
from stillhouse.search.results.statistics import (
    best_seed_runs,
    pareto_indices,
    ranking,
    seconds_saved,
    verdict,
)


def record(key="0" * 64, seconds=1.0, **figures):
    payload = Payload(name="a.safetensors", sha256="0" * 64, size=1)
    return Record(
        key=key,
        name="student",
        kind="train",
        identity={},
        payload=payload,
        figures=figures,
        facts={},
        seconds=seconds,
        made_at="2026-01-01T00:00:00+00:00",
    )


def repeated(role, values, figure="val_accuracy"):
    return SeedRuns(role, tuple(range(len(values))), tuple(record(**{figure: v}) for v in values))


def outcome(trials=(), repeats=(), goal=None, **changes):
    nothing = {"records": {}, "labels": {}, "made_keys": frozenset(), "reused_keys": frozenset()}
    whole = {**nothing, "importances": {}, "seconds": 0.0, **changes}
    goals = (goal or Goal("val_accuracy", True),)
    return Outcome(name="a", goals=goals, trials=tuple(trials), seed_runs=tuple(repeats), **whole)


accuracies = st.lists(st.integers(0, 10_000).map(lambda n: n / 10_000), min_size=2, max_size=6)


@settings(deadline=None)
@given(accuracies, accuracies)
def test_verdict_is_welchs(one, other):
    found = verdict(repeated("trial 1", one), repeated("plain", other), "val_accuracy")
    assert found.difference == pytest.approx(np.mean(one) - np.mean(other), abs=1e-12)
    variances = [np.var(values, ddof=1) / len(values) for values in (one, other)]
    assert found.standard_error == pytest.approx(math.sqrt(sum(variances)), abs=1e-12)
    if found.standard_error > 1e-9:
        shares = [v**2 / (len(w) - 1) for v, w in zip(variances, (one, other), strict=True)]
        freedom = sum(variances) ** 2 / sum(shares)
        chance = 2 * stats.t.sf(abs(found.difference) / found.standard_error, freedom)
        assert found.is_tie == (chance >= 0.05 or found.difference == 0)
    else:
        assert found.is_tie == (found.difference == 0)
    assert ("a tie within seed noise" in found.text) == found.is_tie


def test_two_seeds_say_little():
    best, other = repeated("trial 1", [0.930, 0.932]), repeated("plain", [0.897, 0.908])
    found = verdict(best, other, "val_accuracy")
    assert found.difference > 4 * found.standard_error
    assert found.is_tie


def test_verdict_says_what_it_means():
    good, same, bad = [0.91, 0.92, 0.93], [0.915, 0.925, 0.935], [0.81, 0.82, 0.83]
    best = repeated("trial 1", good)
    assert verdict(best, repeated("direct", same), "val_accuracy").is_tie
    text = verdict(best, repeated("direct", same), "val_accuracy").text
    assert text == "a tie within seed noise (0.50 points lower)"
    clear = verdict(best, repeated("plain", bad), "val_accuracy")
    assert not clear.is_tie
    assert clear.text == "10.00 points higher (p = 0.00026, 12.2 standard errors)"


@pytest.mark.parametrize("seeds", [(1, 1), (1, 3), (3, 1)])
def test_one_seed_proves_nothing(seeds):
    one, other = (repeated("plain", [0.5 + i / 10] * n) for i, n in enumerate(seeds))
    found = verdict(one, other, "val_accuracy")
    assert not found.is_tie
    assert math.isnan(found.standard_error)
    assert found.text == "10.00 points lower; one seed only: no spread known"


def test_seeds_that_do_not_spread():
    flat = repeated("plain", [0.5, 0.5])
    assert verdict(flat, flat, "val_accuracy").is_tie
    apart_ = verdict(repeated("trial 0", [0.6, 0.6]), flat, "val_accuracy")
    assert (apart_.is_tie, apart_.standard_error) == (False, 0.0)


def test_three_seeds_error_rate_is_what_the_docstring_says():
    """About one equal pair in eight looks different with three seeds each."""
    values = np.random.default_rng(0).normal(0.0, 1.0, (20_000, 2, 3))
    gaps = np.abs(values[:, 0].mean(1) - values[:, 1].mean(1))
    errors = np.sqrt(values.var(2, ddof=1).sum(1) / 3)
    assert np.mean(gaps >= 2 * errors) == pytest.approx(1 / 8, abs=0.015)


def trial(number, state="finished", feasible=True, **figures):
    return TrialResult(number, state, {}, {}, figures, feasible=feasible)


TRIALS = [
    trial(0, val_accuracy=0.5),
    trial(1, val_accuracy=math.nan),
    trial(2, val_accuracy=0.9),
    trial(3, val_accuracy=0.99, feasible=False),
    trial(4, state="pruned", val_accuracy=0.99),
    trial(5),
    trial(6, val_accuracy=0.9),
    trial(7, state="failed"),
]


def test_ranking():
    assert [t.number for t in ranking(outcome(TRIALS))] == [2, 6, 0, 1, 5]
    down = outcome(TRIALS, goal=Goal("val_accuracy", False))
    assert [t.number for t in ranking(down)] == [0, 2, 6, 1, 5]
    assert ranking(outcome()) == []


def test_champion_is_the_best_mean_of_those_known():
    known = [repeated("trial 1", [0.8, 0.9]), repeated("trial 2", [0.86, 0.86])]
    others = [repeated("plain", [0.99]), repeated("trial 3", [0.99], figure="val_nll")]
    assert best_seed_runs(outcome(repeats=[*known, *others])).role == "trial 2"
    assert best_seed_runs(outcome(repeats=others)) is None


def test_seconds_saved_counts_what_was_reused():
    keys = {name: name * 64 for name in "abc"}
    stages = {key: record(key, seconds=float(i)) for i, key in enumerate(keys.values(), 1)}
    found = outcome(
        records=stages, made_keys=frozenset(), reused_keys=frozenset({keys["b"], keys["c"], "gone"})
    )
    assert seconds_saved(found) == 5.0
    student = TrialResult(
        0, "finished", {}, {"teacher": keys["b"], "student": keys["a"]}, reused=True
    )
    assert seconds_saved(replace(found, trials=(student,))) == 6.0


points = st.integers(1, 3).flatmap(
    lambda width: st.tuples(
        st.lists(
            st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan])] * width), max_size=12
        ),
        st.tuples(*[st.booleans()] * width),
    )
)


@settings(deadline=None)
@given(points)
def test_pareto_against_the_definition(drawn):
    given_, maximize = drawn
    table = np.array(given_, dtype=float).reshape(len(given_), len(maximize))
    good = np.where(maximize, table, -table)
    whole = ~np.isnan(good).any(axis=1)
    at_least = (good[:, None] >= good[None]).all(-1)
    better = (good[:, None] > good[None]).any(-1)
    beaten = (at_least & better & whole[:, None]).any(0)
    assert pareto_indices(given_, maximize) == np.flatnonzero(whole & ~beaten).tolist()


def test_plane_puts_costs_to_the_right():
    accuracy, size = Goal("val_accuracy", True), Goal("parameters", False)
    nll, latency = Goal("val_nll", False), Goal("latency_ms", False)
    for goals, expected in (
        ([accuracy], (size, accuracy)),
        ([nll], (size, nll)),
        ([latency], (latency, accuracy)),
        ([accuracy, latency], (latency, accuracy)),
        ([latency, accuracy], (latency, accuracy)),
        ([accuracy, nll], (nll, accuracy)),
    ):
        found = choose_metric_axes(goals)
        assert (found.cost, found.quality) == expected


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), max_size=12), st.floats(0.1, 20))
def test_labels_are_set_apart_by_the_least_squares(places, gap):
    moved = spread_apart(places, gap)
    order = np.argsort(places, kind="stable")
    steps = np.diff(np.array(moved)[order])
    assert (steps >= gap - 1e-9).all()
    if places:
        ranks = np.arange(len(places))
        levels = np.array(places)[order] - ranks * gap
        expected = IsotonicRegression().fit_transform(ranks, levels) + ranks * gap
        assert np.array(moved)[order] == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(0, 40), max_size=15))
def test_dots_do_not_cover_each_other(heights):
    xs = [0.0] * len(heights)
    moved = sideways_offsets(xs, heights, diameter=5.0, max_offset=200.0)
    for i, j in itertools.combinations(range(len(xs)), 2):
        assert math.hypot(moved[i] - moved[j], heights[i] - heights[j]) >= 5.0 - 1e-9


def test_labels_avoid_marks_and_each_other():
    marks = [(0.0, 0.0, 30.0), (12.0, 0.0, 30.0), (24.0, 0.0, 30.0)]
    boxes = [
        (x + dx - wide / 2, y + dy - 5, x + dx + wide / 2, y + dy + 5)
        for (x, y, wide), (dx, dy) in zip(marks, label_offsets(marks, 10.0), strict=True)
    ]
    for one, other in itertools.combinations(boxes, 2):
        apart_ = (
            one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        )
        assert apart_


def test_a_box_is_set_aside_until_it_covers_nothing():
    taken = [(0.0, 0.0, 10.0, 10.0), (14.0, 0.0, 20.0, 10.0)]
    assert offset_to_free_space((2.0, 12.0, 8.0, 18.0), taken) == 0.0
    moved = offset_to_free_space((2.0, 2.0, 8.0, 8.0), taken, step=1.0)
    assert moved == 18.0
    assert offset_to_free_space((2.0, 2.0, 5.0, 8.0), taken, step=1.0) == 8.0
    assert offset_to_free_space((2.0, 2.0, 8.0, 8.0), taken, step=1.0, max_offset=5.0) == 0.0


def test_one_failure_does_not_stretch_the_range():
    good = [0.90, 0.91, 0.92, 0.93, 0.94]
    assert robust_range([0.1, *good], maximize=True) == (0.90, 0.94)
    assert robust_range([*good, 9.0], maximize=False) == (0.90, 0.94)
    assert robust_range([0.1, 0.9], maximize=True) == (0.1, 0.9)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (formatting.format_value("val_accuracy", 0.91394), "91.39 %"),
        (formatting.format_value("parameters", 19882.0), "19,882"),
        (formatting.format_value("latency_ms", 1.23456), "1.235 ms"),
        (formatting.format_number("val_nll", math.nan), "-"),
        (formatting.format_difference("val_accuracy", -0.0123), "1.23 points lower"),
        (formatting.format_compact(999_600), "1 M"),
        (formatting.format_compact(19_882), "19.9 k"),
        (formatting.format_duration(3671), "1 h 01 min"),
        (formatting.shorten("abcdefghij", 5), "ab…ij"),
        (formatting.format_setting(["cnn8", "cnn6"]), "cnn8 → cnn6"),
        (formatting.format_setting([]), "none"),
        (
            formatting.format_setting({"hints": {}, "dist": {"weight": 0.5}}),
            "hints, dist (weight: 0.5)",
        ),
        (formatting.format_domain({"log_uniform": [1, 20]}), "1 … 20, log"),
        (formatting.format_domain({"chain": {"of": ["a", "b"], "at_most": 1}}), "0 … 1 of a, b"),
        (formatting.format_domain("declared"), "declared"),
    ],
)
def test_wording(told, expected):
    assert told == expected


def test_paths_are_told_by_what_sets_them_apart():
    paths = ["student.training.lr", "chain.links.a.training.lr", "student.network", "lr"]
    assert list(formatting.distinct_suffixes(paths).values()) == [
        "student.training.lr",
        "a.training.lr",
        "student.network",
        "lr",
    ]


def test_names_that_are_too_long_lose_what_they_share():
    assert formatting.fit_names(["wide_resnet40-2", "wide_resnet16-2", "cnn8"], 6) == {
        "wide_resnet40-2": "…40-2",
        "wide_resnet16-2": "…16-2",
        "cnn8": "cnn8",
    }
    assert formatting.fit_names(["cnn8", "cnn6"], 6) == {"cnn8": "cnn8", "cnn6": "cnn6"}
    assert formatting.fit_names(["resnet_b", "resnet"], 6) == {
        "resnet_b": "res…_b",
        "resnet": "resnet",
    }
    assert formatting.fit_names([], 6) == {}
