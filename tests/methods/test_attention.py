"""Attention maps against their formula in NumPy, and what they do not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.attention import Attention, attention_map
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network, Output

BATCH = Batch(torch.zeros(3, 1, 8, 8), torch.zeros(3).long(), torch.arange(3))


def maps(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def normalised(features):
    squares = np.sum(features**2, axis=1).reshape(len(features), -1)
    return squares / np.sqrt((squares**2).sum(axis=1, keepdims=True))


def loss_of(pair, at, student, teacher):
    method = Attention(Attention.Config(at="last"), pair())
    mine, theirs = (torch.as_tensor(x) for x in (student, teacher))
    logits = torch.zeros(3, 10)
    return method(Output(logits, {"conv2": mine}), [Output(logits, {"conv4": theirs})], BATCH, at)


def test_is_the_formula_of_the_paper_whatever_the_channels(pair, progress):
    """A sum over channels and a mean are one after normalisation."""
    s, t = maps(0, 3, 16, 2, 5), maps(1, 3, 32, 2, 5)
    wanted = np.mean((normalised(s) - normalised(t)) ** 2)
    assert loss_of(pair, progress(), s, t).item() == pytest.approx(wanted, rel=1e-10)


def test_two_focused_networks_that_look_elsewhere(pair, progress):
    """Unit vectors at right angles are 2 apart, squared; the mean runs over four positions."""
    s, t = np.zeros((3, 2, 2, 2)), np.zeros((3, 2, 2, 2))
    s[:, 0, 0, 0], t[:, 1, 1, 1] = 3.0, -0.1
    assert loss_of(pair, progress(), s, t).item() == pytest.approx(2 / 4, rel=1e-10)


def test_maps_of_attention_are_averaged_not_features(pair, progress):
    """Features of both signs would cancel before they are squared."""
    t = np.ones((3, 4, 2, 2))
    s = np.ones((3, 4, 4, 4))
    s[:, :, ::2] = -1.0
    assert loss_of(pair, progress(), s, t).item() == pytest.approx(0.0, abs=1e-15)
    s[:, :, :2, :2] *= 2
    pooled = (s**2).mean(axis=1).reshape(3, 2, 2, 2, 2).mean(axis=(2, 4)).reshape(3, -1)
    q = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    wanted = np.mean((q - 0.5) ** 2)
    assert loss_of(pair, progress(), s, t).item() == pytest.approx(wanted, rel=1e-10)


def test_scale_sign_and_order_of_channels_do_not_matter(pair, progress):
    s, t = maps(0, 3, 16, 2, 2), maps(1, 3, 32, 2, 2)
    base = loss_of(pair, progress(), s, t).item()
    for changed in (5 * s, -s, s[:, ::-1].copy()):
        assert loss_of(pair, progress(), changed, t).item() == pytest.approx(base, rel=1e-10)
    assert loss_of(pair, progress(), 3 * t, t).item() == pytest.approx(0.0, abs=1e-15)


def test_gradient_is_the_numerical_one():
    features = torch.from_numpy(maps(0, 2, 3, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(attention_map, features)


def test_maps_of_zeros_have_no_direction(pair, progress):
    s = torch.zeros(3, 16, 2, 2, requires_grad=True)
    loss = loss_of(pair, progress(), s, torch.rand(3, 32, 2, 2))
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(s.grad, torch.zeros_like(s))


def _pooled_early():
    """Its only map is a single pixel."""
    blocks = {"map": nn.Conv2d(1, 4, 8), "head": nn.Sequential(nn.Flatten(), nn.Linear(4, 3))}
    return Network(blocks).eval()


def test_a_single_pixel_has_no_attention(pair):
    with pytest.raises(ConfigError, match="at: compares maps of 2 pixels or more"):
        Attention(
            Attention.Config(),
            BuildContext(_pooled_early(), pair().teachers, 3, 10, torch.rand(1, 1, 8, 8)),
        )
