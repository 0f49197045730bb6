"""Networks that split every class: one more block, and everything else as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs, network_costs
from stillhouse.spaces.modules.cuts import cut_positions
from stillhouse.spaces.modules.subclasses import ClassLogits, num_subclasses, subclass_logits_block
from stillhouse.spaces.network_spec import NetworkSpec

SHAPE = (3, 16, 16)


def built(spec, classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NetworkSpec.parse(spec).build(SHAPE, classes).eval()


def test_class_probabilities_are_sums_over_subclasses_and_sum_to_one():
    network = built({"resnet8": {"subclasses": 3}})
    with torch.no_grad():
        logits, features = network.double()(torch.rand(5, *SHAPE).double(), None)
    assert network.names[-2:] == ("head", "classes")
    split = features["head"].numpy()
    assert split.shape == (5, 12)
    each = np.exp(split) / np.exp(split).sum(axis=1, keepdims=True)
    found = logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(found, each.reshape(5, 4, 3).sum(axis=2), rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)


def test_a_class_far_behind_keeps_its_log_probability():
    """Public code takes the log of a summed softmax, which is minus infinity here."""
    split = torch.tensor([[0.0, 1.0, -400.0, -401.0]])
    log_p = ClassLogits(2)(split).log_softmax(dim=1)
    assert log_p[0, 1].item() == pytest.approx(-400 + np.log(1 + np.exp(-1)) - np.log(1 + np.e))
    assert split.softmax(dim=1)[0, 2:].sum().log().item() == -np.inf


def test_half_precision_is_summed_in_float32():
    split = torch.randn(3, 10).bfloat16()
    found = ClassLogits(5)(split)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, split.float().view(3, 2, 5).logsumexp(dim=2))


@pytest.mark.parametrize("spec", ["resnet20", {"resnet20": {"width": 0.5}}, "cnn4", "lenet5"])
def test_a_spec_says_it_and_reads_it_back(spec):
    plain, split = NetworkSpec.parse(spec), NetworkSpec.parse(spec).with_num_subclasses(5)
    assert "subclasses" not in plain.plain()
    assert plain.with_num_subclasses(1) == plain
    assert split.identity() == {**plain.identity(), "subclasses": 5}
    again = NetworkSpec.parse(split.plain())
    assert (again.plain(), again.subclasses) == (split.plain(), 5)
    assert split.label != plain.label
    assert split.with_num_subclasses(1) == plain
    assert split.with_num_subclasses(2).plain()["subclasses"] == 2
    assert (
        split.label.count("subclasses")
        == split.with_num_subclasses(2).label.count("subclasses")
        == 1
    )


def test_all_ways_to_write_it_mean_one_network():
    named = NetworkSpec.parse({"resnet20": {"subclasses": 5}})
    flat = NetworkSpec.parse({"family": "resnet", "depth": 20, "subclasses": 5})
    assert (
        named.plain()
        == flat.plain()
        == NetworkSpec.parse("resnet20").with_num_subclasses(5).plain()
    )
    assert NetworkSpec.parse({"resnet20": {"subclasses": 1}}) == NetworkSpec.parse("resnet20")


@pytest.mark.parametrize("found", [0, -1, 2.5, "two", True])
def test_other_numbers_are_refused(found):
    with pytest.raises(ConfigError, match="whole number of 1 or more"):
        NetworkSpec.parse({"resnet20": {"subclasses": found}})


def test_costs_are_those_of_a_head_as_wide():
    split, wide = {"resnet8": {"subclasses": 5}}, "resnet8"
    assert network_costs(split, SHAPE, 2) == network_costs(wide, SHAPE, 10)
    assert compute_costs(built(split, 2), SHAPE) == network_costs(split, SHAPE, 2)


def test_cuts_are_those_of_the_network_without():
    assert cut_positions(built({"resnet8": {"subclasses": 5}}), SHAPE) == cut_positions(
        built("resnet8"), SHAPE
    )


def test_where_the_subclasses_are():
    assert (num_subclasses(built("resnet8")), subclass_logits_block(built("resnet8"))) == (
        1,
        "head",
    )
    split = built({"resnet8": {"subclasses": 5}})
    assert (num_subclasses(split), subclass_logits_block(split)) == (5, "head")
    assert num_subclasses(split.with_normalisation((0.5,) * 3, (0.2,) * 3)) == 5
