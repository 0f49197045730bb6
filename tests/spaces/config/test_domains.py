"""Domains: what they contain is what can be drawn, and they read back as they print."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.spaces.config.domains import (
    Choice,
    Integers,
    LogUniform,
    OrderedSubset,
    Uniform,
    parse_domain,
)
from stillhouse.spaces.config.problems import ConfigError
from tests.support.suggesters import RandomSuggester, ScriptedSuggester

finite = st.floats(-1e6, 1e6, allow_nan=False)
positive = st.floats(1e-6, 1e6)
pairs = st.tuples(finite, finite).map(sorted).filter(lambda p: p[0] < p[1])
positive_pairs = st.tuples(positive, positive).map(sorted).filter(lambda p: p[1] > p[0] * 1.001)
names = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=5, unique=True)


@st.composite
def chains(draw):
    of = tuple(draw(names))
    at_most = draw(st.integers(0, len(of)))
    return OrderedSubset(of, at_most, draw(st.integers(0, at_most)))


domains = st.one_of(
    pairs.map(lambda p: Uniform(*p)),
    positive_pairs.map(lambda p: LogUniform(*p)),
    st.builds(
        lambda low, span, step: Integers(low, low + span, step),
        st.integers(-50, 50),
        st.integers(0, 50),
        st.integers(1, 7),
    ),
    st.lists(st.integers(-9, 9) | st.booleans() | st.text("xyz"), min_size=1, unique_by=repr).map(
        lambda values: Choice(tuple(values))
    ),
    chains(),
)


@given(domains)
def test_a_domain_reads_back_as_it_was_described(domain):
    assert parse_domain(domain.plain()) == domain
    assert hash(parse_domain(domain.plain())) == hash(domain)


@given(domains, st.integers(0, 2**32))
def test_what_is_drawn_is_contained(domain, seed):
    value = domain.suggest("x", RandomSuggester(seed))
    # exp(log(x)) may leave the interval by one rounding.
    if isinstance(domain, LogUniform):
        value = min(max(value, domain.low), domain.high)
    assert domain.contains(value)


@given(domains, st.integers(1, 9))
def test_the_grid_is_contained_and_has_no_repetition(domain, points):
    grid = domain.grid(points)
    assert all(domain.contains(value) for value in grid)
    assert len({repr(value) for value in grid}) == len(grid)


@pytest.mark.parametrize("points", [2, 3, 10])
def test_grids_of_real_numbers_reach_both_ends_in_even_steps(points):
    linear = Uniform(-1.0, 3.0).grid(points)
    assert len(linear) == points
    assert (linear[0], linear[-1]) == (-1.0, 3.0)
    steps = [b - a for a, b in itertools.pairwise(linear)]
    assert steps == pytest.approx([4 / (points - 1)] * (points - 1))
    ratios = [b / a for a, b in itertools.pairwise(LogUniform(0.01, 100.0).grid(points))]
    assert ratios == pytest.approx([1e4 ** (1 / (points - 1))] * (points - 1))


def test_one_point_is_the_middle():
    assert Uniform(0.0, 1.0).grid(1) == (0.5,)
    assert LogUniform(1.0, 100.0).grid(1) == pytest.approx((10.0,))


@given(chains())
def test_a_chain_has_as_many_values_as_binomials_say(chain):
    lengths = range(chain.at_least, chain.at_most + 1)
    assert len(chain.grid(0)) == sum(math.comb(len(chain.of), n) for n in lengths)


@given(chains())
def test_a_chain_keeps_the_order_of_its_members(chain):
    for value in chain.grid(0):
        places = [chain.of.index(member) for member in value]
        assert places == sorted(places)
        if len(value) > 1:
            assert not chain.contains(tuple(reversed(value)))


@given(chains())
def test_yes_and_no_answers_reach_every_value_of_a_chain(chain):
    answers = itertools.product((0, 1), repeat=len(chain.of))
    suggested = {chain.suggest("x", ScriptedSuggester(a)) for a in answers}
    assert suggested == set(chain.grid(0))


def test_a_chain_asks_one_question_a_member_named_after_it():
    suggester = RandomSuggester(0)
    OrderedSubset(("cnn8", "cnn6", "cnn4"), at_most=3).suggest("assistants.networks", suggester)
    assert suggester.names == [f"assistants.networks.{n}" for n in ("cnn8", "cnn6", "cnn4")]


def test_a_chain_does_not_ask_what_is_decided():
    chain = OrderedSubset(("a", "b", "c"), at_most=1, at_least=1)
    assert chain.suggest("x", ScriptedSuggester([1])) == ("a",)
    assert chain.suggest("x", ScriptedSuggester([0, 0])) == ("c",)


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Uniform(0.0, 1.0), [0, 0.0, 1.0, 0.3], [-0.1, 1.1, True, "0.5", math.nan, None]),
        (LogUniform(1.0, 2.0), [1, 1.0, 2.0], [0.0, 2.1, False]),
        (Integers(8, 110, 6), [8, 20, 110], [9, 116, 20.0, True, "8"]),
        (Choice((1, "a", 2.5)), [1, "a", 2.5], [1.0, True, "b", 2]),
        (OrderedSubset(("a", "b"), 2, 1), [("a",), ["a", "b"]], [(), ("b", "a"), "a", ("c",)]),
    ],
)
def test_contains_is_strict_about_types(domain, inside, outside):
    assert all(domain.contains(value) for value in inside)
    assert not any(domain.contains(value) for value in outside)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"uniform": [2, 1]}, "low < high"),
        ({"uniform": [1]}, "[low, high]"),
        ({"uniform": [0, float("inf")]}, "finite"),
        ({"log_uniform": [0, 1]}, "0 < low"),
        ({"integers": [1, 2.5]}, "whole numbers"),
        ({"integers": [1, 5, 0]}, "step of 1 or more"),
        ({"choice": []}, "at least one"),
        ({"choice": [1, 1]}, "twice"),
        ({"choice": "abc"}, "needs a list"),
        ({"chain": {"of": ["a", "a"]}}, "twice"),
        ({"chain": {"of": ["a"], "at_most": 2}}, "at_most <= 1"),
        ({"chain": {"of": ["a"], "most": 1}}, "at_most"),
        ({"chain": {"at_most": 1}}, "needs a list"),
        ({"unifrom": [0, 1]}, "did you mean 'uniform'"),
        ([1, 2], "a domain is one of"),
        ({"uniform": [0, 1], "choice": [1]}, "a domain is one of"),
    ],
)
def test_a_wrong_domain_is_one_clear_problem_at_its_place(data, says):
    with pytest.raises(ConfigError) as caught:
        parse_domain(data, "search.student.training.lr")
    (problem,) = caught.value.problems
    assert problem.path == "search.student.training.lr"
    assert says in problem.message
    assert "\n" not in str(problem)


def test_a_chain_may_be_written_as_a_list():
    assert parse_domain({"chain": ["a", "b"]}) == OrderedSubset(("a", "b"), at_most=2)


@given(domains)
def test_a_domain_prints_on_one_line(domain):
    assert "\n" not in str(domain)
