"""Channel attention against its formula in NumPy, and the whole schedule of its paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.channel_attention import ChannelAttention
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.spaces.modules.network import Output

BATCH = Batch(torch.zeros(3, 1, 8, 8), torch.zeros(3).long(), torch.arange(3))
LOGITS = torch.zeros(3, 10)


def maps(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def said(features):
    return Output(LOGITS, {name: torch.from_numpy(x) for name, x in features.items()})


def connected(s, weight, eps=1e-5):
    """1x1 convolution, batch norm with this batch's own statistics, ReLU."""
    x = np.einsum("oc,bchw->bohw", weight, s)
    mean, variance = (f(x, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
    return np.maximum((x - mean) / np.sqrt(variance + eps), 0)


def test_is_the_formula_of_the_paper_summed_over_stages(pair, progress):
    method = ChannelAttention(ChannelAttention.Config(), pair()).double()
    s = {"conv1": maps(0, 3, 16, 4, 4), "conv2": maps(1, 3, 16, 2, 2)}
    t = {"conv3": maps(2, 3, 32, 4, 4), "conv4": maps(3, 3, 32, 5, 3)}
    wanted = 0.0
    for connector, mine, theirs in zip(method.connectors[0], s.values(), t.values(), strict=True):
        weight = connector[0].weight.detach().numpy()[:, :, 0, 0]
        means = connected(mine, weight).mean(axis=(2, 3)) - theirs.mean(axis=(2, 3))
        wanted += np.mean(means**2)
    found = method(said(s), [said(t)], BATCH, progress()).item()
    assert found == pytest.approx(wanted, rel=1e-9)


def test_without_connector_channels_are_compared_as_they_are(pair, progress):
    equal = replace(pair(), teachers=[pair().student])
    method = ChannelAttention(ChannelAttention.Config(at="last"), equal)
    assert not list(method.parameters())
    s, t = maps(0, 3, 16, 4, 2), maps(1, 3, 16, 3, 3)
    found = method(said({"conv2": s}), [said({"conv2": t})], BATCH, progress()).item()
    wanted = np.mean((s.mean(axis=(2, 3)) - t.mean(axis=(2, 3))) ** 2)
    assert found == pytest.approx(wanted, rel=1e-10)


def test_where_a_channel_is_active_does_not_matter(pair, progress):
    method = ChannelAttention(
        ChannelAttention.Config(at="last"), replace(pair(), teachers=[pair().student])
    )
    s = maps(0, 3, 16, 4, 4)
    t = s[:, :, ::-1, ::-1].copy()
    found = method(said({"conv2": s}), [said({"conv2": t})], BATCH, progress()).item()
    assert found == pytest.approx(0.0, abs=1e-15)


def test_a_connector_can_stand_everywhere_as_in_the_authors_code(pair):
    equal = replace(pair(), teachers=[pair().student])
    method = ChannelAttention(ChannelAttention.Config(connector="always"), equal)
    for connector in method.connectors[0]:
        kinds = [type(layer) for layer in connector]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        assert connector[0].bias is None


FULL = {
    "cross_entropy": {"schedule": {"switch": {"since": 60}}},
    "guided": {"weight": 0.1, "schedule": {"switch": {"since": 60}}},
    "channel_attention": {
        "weight": 6.0,
        "schedule": {"step": {"milestones": [59, 159], "gamma": 0.9}},
    },
}


def test_early_decay_of_the_teacher_at_every_epoch_of_200():
    """The published table for CIFAR-100; its epochs count from 1."""
    terms = Objective.parse(FULL).terms
    for epoch in range(1, 201):
        decay = 6 if epoch < 60 else 5.4 if epoch < 160 else 4.86
        joined = epoch > 60
        wanted = {"cross_entropy": 1.0 * joined, "guided": 0.1 * joined, "channel_attention": decay}
        found = {name: term.weight_at(epoch - 1, 200) for name, term in terms.items()}
        assert found == pytest.approx(wanted), f"epoch {epoch}"


def test_early_decay_of_the_teacher_at_every_epoch_of_100():
    """The published table for ImageNet."""
    late = {"schedule": {"switch": {"since": 30}}}
    decays = {"step": {"milestones": [29, 59, 89], "gamma": 0.9}}
    terms = Objective.parse(
        {"cross_entropy": late, "guided": late, "channel_attention": {"schedule": decays}}
    ).terms
    for epoch in range(1, 101):
        joined = float(epoch > 30)
        decay = 6 * 0.9 ** (epoch // 30)
        wanted = {"cross_entropy": joined, "guided": joined, "channel_attention": decay}
        found = {name: term.weight_at(epoch - 1, 100) for name, term in terms.items()}
        assert found == pytest.approx(wanted), f"epoch {epoch}"


def test_inside_an_epoch_no_weight_changes():
    terms = Objective.parse(FULL).terms
    for name, term in terms.items():
        for epoch in (0, 58, 59, 60, 158, 159, 199):
            inside = {term.weight_at(epoch + share, 200) for share in (0.0, 0.3, 0.999)}
            assert len(inside) == 1, f"{name} in epoch {epoch}"


def test_the_full_method_begins_with_channels_alone(pair, progress):
    objective = Objective.parse(FULL).build(pair())
    assert set(objective.active_weights(progress(epoch=0, epochs=200))) == {"channel_attention"}
    assert set(objective.active_weights(progress(epoch=60, epochs=200))) == set(FULL)
