"""Cuts: where one map crosses, the intervals between, and cuts as a value that is searched."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stillhouse.spaces.config.domains import CutPoints, parse_domain
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.cuts import Interval, cut_positions, intervals, narrowed_shape
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec
from tests.support.suggesters import ScriptedSuggester

NETWORKS = [
    ("resnet8", (3, 32, 32)),
    ("wrn-10-1", (3, 20, 27)),
    ("cnn10", (1, 28, 28)),
    ("vgg11", (3, 32, 32)),
    ({"mobilenet": {"width": 0.35}}, (3, 32, 32)),
    ("lenet5", (1, 28, 28)),
    ("tv_resnet18", (3, 64, 64)),
]


@pytest.mark.parametrize(("spec", "shape"), NETWORKS, ids=str)
def test_positions_are_the_shapes_of_the_features_that_cross(spec, shape):
    torch.manual_seed(0)
    network = NetworkSpec.parse(spec).build(shape, 10).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = cut_positions(network.train(), shape)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())
    features = list(network.eval()(torch.zeros((1, *shape))).features.values())
    assert found == {p: tuple(features[p - 1].shape[1:]) for p in range(1, len(features))}


def test_no_cut_where_something_else_than_a_map_crosses():
    blocks = {
        "stem": nn.Conv2d(3, 4, 3),
        "middle": nn.ReLU(),
        "flat": nn.Flatten(),
        "head": nn.Linear(4 * 6 * 6, 5),
    }
    assert cut_positions(Network(blocks), (3, 8, 8)) == {1: (4, 6, 6), 2: (4, 6, 6)}


def test_a_network_on_no_device_can_be_cut():
    with torch.device("meta"):
        network = NetworkSpec.parse("resnet20").build((3, 32, 32), 10)
    assert cut_positions(network, (3, 32, 32))[10] == (64, 8, 8)


ends = st.tuples(st.integers(1, 6), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1]))


@given(ends, st.integers(1, 8), st.data())
def test_intervals_are_all_short_pairs_of_cuts_and_connect_the_ends(ends, longest, data):
    first, last = ends
    everywhere = range(first, last + 1)
    cuts = data.draw(st.none() | st.lists(st.sampled_from(everywhere), unique=True))
    allowed = everywhere if cuts is None else sorted({first, *cuts, last})
    if max(b - a for a, b in itertools.pairwise(allowed)) > longest:
        with pytest.raises(ConfigError, match="no interval of at most"):
            intervals(everywhere, longest, cuts)
        return
    found = intervals(everywhere, longest, cuts)
    pairs = itertools.combinations(allowed, 2)
    assert found == tuple(Interval(a, b) for a, b in pairs if b - a <= longest)
    reached = {first}
    for interval in found:
        reached |= {interval.stop} if interval.start in reached else set()
    assert last in reached


def test_without_a_limit_there_is_an_interval_for_every_pair():
    assert len(intervals(range(1, 29), 27)) == math.comb(28, 2)


@pytest.mark.parametrize(
    ("longest", "cuts", "says"),
    [
        (4, [1, 8], "at most 4 blocks leads from cut 1 to cut 8"),
        (3, [4], "at most 3 blocks leads from cut 4 to cut 8: allow intervals of 4 blocks"),
        (8, [3, 9], "cannot be cut at 9; allowed: 1, 2, 3, 4, 5, 6, 7, 8"),
        (0, None, "1 block or more"),
    ],
)
def test_a_gap_and_a_strange_cut_are_named(longest, cuts, says):
    with pytest.raises(ConfigError, match=says) as caught:
        intervals(range(1, 9), longest, cuts)
    assert "\n" not in str(caught.value)


def test_a_network_of_two_blocks_has_no_interval():
    with pytest.raises(ConfigError, match="two cuts or more"):
        intervals({1: (16, 8, 8)}, 4)


def test_a_narrower_boundary_has_fewer_channels_of_the_same_size():
    assert narrowed_shape((64, 7, 5), 0.5) == (32, 7, 5)
    assert narrowed_shape((64, 7, 5), 1.0) == (64, 7, 5)
    assert narrowed_shape((3, 7, 5), 0.01) == (1, 7, 5)
    for width in (0.0, 1.1, -1.0, math.nan):
        with pytest.raises(ConfigError, match="width of a boundary"):
            narrowed_shape((64, 7, 5), width)


# Cuts as a domain.


@st.composite
def cut_domains(draw):
    of = tuple(sorted(draw(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True))))
    at_most = draw(st.integers(0, len(of)))
    return CutPoints(of, at_most, draw(st.integers(0, at_most)))


@given(cut_domains())
def test_yes_and_no_answers_reach_every_subset_and_nothing_else(domain):
    answers = itertools.product((0, 1), repeat=len(domain.of))
    suggested = {domain.suggest("x", ScriptedSuggester(a)) for a in answers}
    lengths = range(domain.at_least, domain.at_most + 1)
    assert suggested == set(domain.grid(0))
    assert len(suggested) == sum(math.comb(len(domain.of), n) for n in lengths)
    assert all(domain.contains(value) and domain.contains(list(value)) for value in suggested)
    assert all(list(value) == sorted(value) for value in suggested)


@given(cut_domains())
def test_cuts_read_back_as_they_were_described(domain):
    assert parse_domain(domain.plain()) == domain
    assert hash(parse_domain(domain.plain())) == hash(domain)
    assert "\n" not in str(domain)


def test_cuts_ask_one_question_a_point_until_all_is_decided():
    suggester = ScriptedSuggester([1, 0, 1])
    assert CutPoints((2, 4, 6, 8), at_most=2).suggest("plan.cuts", suggester) == (2, 6)
    assert suggester.names == ["plan.cuts.2", "plan.cuts.4", "plan.cuts.6"]
    assert CutPoints((2, 4, 6), at_most=3, at_least=2).suggest("x", ScriptedSuggester([0])) == (
        4,
        6,
    )


def test_contains_is_strict():
    domain = CutPoints((1, 4, 6), at_most=2, at_least=1)
    outside = [(), (4, 1), (1, 1), (1, 4, 6), (2,), (True,), (4.0,), ("4",), 4, "4", None]
    assert not any(domain.contains(value) for value in outside)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"cuts": []}, "at least one point"),
        ({"cuts": [4, 2]}, "increasing order"),
        ({"cuts": [2, 2]}, "increasing order"),
        ({"cuts": [2, 4.0]}, "whole numbers"),
        ({"cuts": {"of": [2, 4], "at_most": 3}}, "at_most <= 2"),
        ({"cuts": {"of": [2, 4], "most": 1}}, "at_most"),
        ({"cuts": 3}, "needs a list"),
        ({"cut": [1]}, "did you mean 'cuts'"),
    ],
)
def test_wrong_cuts_are_one_clear_problem(data, says):
    with pytest.raises(ConfigError) as caught:
        parse_domain(data, "search.plan.cuts")
    (problem,) = caught.value.problems
    assert says in problem.message
    assert "\n" not in str(problem)


def test_cuts_may_be_written_as_a_list():
    assert parse_domain({"cuts": [2, 4]}) == CutPoints((2, 4), at_most=2)
