"""Which features are paired, of networks that fit and of those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.core.objective.taps import (
    FeatureConfig,
    TapPlacement,
    match_sizes,
    pair_features,
)
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network


class Settings(FeatureConfig):
    """As a method declares its own."""

    at: TapPlacement = "stages"


def chain(*strides, channels=2):
    """One block a stride; the name says its place."""
    blocks, inputs = {}, 1
    for i, stride in enumerate(strides):
        blocks[f"b{i}"] = nn.Conv2d(inputs, channels, 1, stride=stride)
        inputs = channels
    blocks["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 3))
    return Network(blocks).eval()


def pair_of(student, *teachers):
    return BuildContext(student, teachers, 3, 10, torch.rand(2, 1, 8, 8))


def names(pair, at="stages", teacher=0):
    return [found[:2] for found in pair_features(pair, teacher, at)]


def test_stages_end_where_the_resolution_changes():
    pair = pair_of(chain(1, 1, 2, 2, 1), chain(1, 2, 1, 2))
    assert names(pair) == [("b1", "b0"), ("b2", "b2"), ("b4", "b3")]


def test_shapes_are_those_of_the_features():
    pair = pair_of(chain(1, 2, channels=4), chain(1, 1, 4, channels=6))
    (first, last) = pair_features(pair, 0, "stages")
    assert first == ("b0", "b1", (4, 8, 8), (6, 8, 8))
    assert last == ("b1", "b2", (4, 4, 4), (6, 2, 2))


def test_pairs_from_the_deep_end_until_one_network_has_no_more():
    pair = pair_of(chain(2, 2), chain(1, 2, 2, 2))
    assert names(pair) == [("b0", "b2"), ("b1", "b3")]


def test_last_and_middle():
    pair = pair_of(chain(1, 2, 2), chain(1, 1, 2, 2))
    assert names(pair, "last") == [("b2", "b3")]
    assert names(pair, "middle") == [("b1", "b2")]
    assert names(pair_of(chain(1), chain(1, 2)), "middle") == [("b0", "b1")]


def test_every_teacher_is_paired_by_itself():
    pair = pair_of(chain(1, 2), chain(1, 2), chain(1, 1, 2))
    assert names(pair, teacher=0) == [("b0", "b0"), ("b1", "b1")]
    assert names(pair, teacher=1) == [("b0", "b1"), ("b1", "b2")]


def test_residual_networks_pair_by_stage(build):
    pair = BuildContext(
        build("resnet8", (3, 16, 16)).eval(),
        [build("resnet14", (3, 16, 16)).eval()],
        10,
        10,
        torch.rand(1, 3, 16, 16),
    )
    assert names(pair) == [(f"stage{i}_1", f"stage{i}_2") for i in (1, 2, 3)]


def test_named_blocks_in_the_order_given():
    pair = pair_of(chain(1, 2, 2), chain(1, 1, 2, 2))
    assert names(pair, (("b2", "b0"), ("b0", "b3"))) == [("b2", "b0"), ("b0", "b3")]


def test_blocks_that_are_not_there_are_named():
    pair = pair_of(chain(1, 2), chain(1, 2))
    with pytest.raises(ConfigError) as caught:
        pair_features(pair, 0, (("b7", "b0"), ("b0", "head")))
    said = str(caught.value)
    assert "at: unknown block of the student that gives a map 'b7'" in said
    assert "at: unknown block of teacher 1 that gives a map 'head'" in said


def test_a_network_without_maps_is_refused():
    flat = Network({"head": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}).eval()
    with pytest.raises(ConfigError, match="no block of the student gives one"):
        pair_features(pair_of(flat, chain(1)), 0, "last")
    with pytest.raises(ConfigError, match="no block of teacher 2 gives one"):
        pair_features(pair_of(chain(1), chain(1), flat), 1, "last")


def test_sizes_are_matched_by_averaging_the_larger_side_by_side():
    one = torch.arange(16.0).view(1, 1, 4, 4)
    other = torch.rand(1, 3, 2, 8)
    small, same = match_sizes(one, other)
    assert small.shape == (1, 1, 2, 4)
    assert small[0, 0, 0].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert torch.equal(same, other.view(1, 3, 2, 4, 2).mean(-1))
    assert match_sizes(one, one)[0] is one


@pytest.mark.parametrize("at", ["last", "middle", "stages", [["b0", "b1"], ["b1", "b2"]]])
def test_can_be_written(at):
    settings = Settings.parse({"at": at})
    assert Settings.parse(settings.plain()) == settings


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("lst", "^at: unknown place 'lst'; did you mean 'last'"),
        ("b0", "^at: unknown place 'b0'.*last, middle, stages"),
        ([["b0"]], r"^at: needs last, middle, stages or \[\[student block, teacher block\]\]"),
        ([], "^at: needs last, middle, stages or"),
        (3, "^at: needs last, middle, stages or .* found 3"),
    ],
)
def test_mistakes_are_named(at, message):
    with pytest.raises(ConfigError, match=message):
        Settings.parse({"at": at})
