"""Variational distillation against SciPy's normal density, and what its variance learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.variational import Variational
from stillhouse.spaces.modules.network import Output

BATCH = Batch(torch.zeros(3, 1, 8, 8), torch.zeros(3).long(), torch.arange(3))
LOGITS = torch.zeros(3, 10)


def maps(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def made(pair):
    return Variational(Variational.Config(at="last"), pair()).double()


def loss_of(method, at, student, teacher):
    mine, theirs = (torch.as_tensor(x) for x in (student, teacher))
    return method(Output(LOGITS, {"conv2": mine}), [Output(LOGITS, {"conv4": theirs})], BATCH, at)


def regressed(s, mean):
    """Three 1x1 convolutions with ReLUs between."""
    for i, layer in enumerate(mean[::2]):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        s = np.maximum(s, 0) if i else s
        s = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], s) + bias[None, :, None, None]
    return s


def test_is_the_negative_log_likelihood_of_a_gaussian(pair, progress):
    method = made(pair)
    gaussian = method.connectors[0][0]
    raw = np.linspace(-3, 4, 32)
    gaussian.raw_variance.data.copy_(torch.from_numpy(raw).view(-1, 1, 1))
    s, t = maps(0, 3, 16, 2, 2), maps(1, 3, 32, 2, 2)
    sigma = np.sqrt(np.log1p(np.exp(raw)) + 1e-5)[None, :, None, None]
    density = norm.logpdf(t, loc=regressed(s, gaussian.mean), scale=sigma)
    wanted = -density.mean() - math.log(2 * math.pi) / 2
    assert loss_of(method, progress(), s, t).item() == pytest.approx(wanted, rel=1e-9)


def test_one_variance_a_channel_that_starts_at_five(pair):
    mean, variance = made(pair).connectors[0][0](torch.rand(3, 16, 2, 2).double())
    assert mean.shape == (3, 32, 2, 2)
    assert variance.shape == (32, 1, 1)
    np.testing.assert_allclose(variance.detach().numpy(), 5.0, rtol=1e-6)


def test_a_perfect_guess_costs_what_its_variance_says(pair, progress):
    method = made(pair)
    method.connectors[0][0].mean = nn.Identity()
    t = maps(1, 3, 32, 2, 2)
    assert loss_of(method, progress(), t, t).item() == pytest.approx(math.log(5.0) / 2, rel=1e-6)


def test_the_best_variance_of_a_channel_is_its_mean_squared_error(pair, progress):
    """There, and nowhere else, the variance has no gradient."""
    method = made(pair)
    gaussian = method.connectors[0][0]
    gaussian.mean = nn.Identity()
    s, t = maps(0, 3, 32, 2, 2), maps(1, 3, 32, 2, 2)
    errors = np.mean((s - t) ** 2, axis=(0, 2, 3))
    raw = np.log(np.expm1(errors - 1e-5))
    gaussian.raw_variance.data.copy_(torch.from_numpy(raw).view(-1, 1, 1))
    loss_of(method, progress(), s, t).backward()
    np.testing.assert_allclose(gaussian.raw_variance.grad.numpy(), 0.0, atol=1e-12)
    gaussian.raw_variance.data.add_(0.5)
    loss_of(method, progress(), s, t).backward()
    assert (gaussian.raw_variance.grad > 1e-4).all()


def test_a_variance_that_learnt_to_vanish_stays_above_zero(pair, progress):
    method = made(pair).float()
    gaussian = method.connectors[0][0]
    gaussian.mean = nn.Identity()
    gaussian.raw_variance.data.fill_(-1e4)
    t = torch.rand(3, 32, 2, 2)
    loss = loss_of(method, progress(), t, t)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1e-5) / 2, rel=1e-4)
    assert gaussian.raw_variance.grad.isfinite().all()


def test_channels_that_the_student_cannot_know_count_less(pair, progress):
    """What weighs an error is its channel's variance."""
    method = made(pair)
    gaussian = method.connectors[0][0]
    gaussian.mean = nn.Identity()
    variance = np.linspace(0.5, 8.0, 32)
    raw = torch.from_numpy(np.log(np.expm1(variance - 1e-5)))
    gaussian.raw_variance.data.copy_(raw.view(-1, 1, 1))
    s = torch.zeros(3, 32, 2, 2, dtype=torch.float64, requires_grad=True)
    loss_of(method, progress(), s, np.ones((3, 32, 2, 2))).backward()
    pull = s.grad.numpy()[0, :, 0, 0] * s.numel()
    np.testing.assert_allclose(pull, -1 / variance, rtol=1e-9)


def test_convolutions_without_biases_have_a_key_of_their_own(pair):
    method = Variational(Variational.Config(at="last", bias=False), pair())
    assert not any("bias" in name for name, _ in method.named_parameters())
    assert any("bias" in name for name, _ in made(pair).named_parameters())
    assert "bias" not in Variational.Config().identity()
    assert Variational.Config(bias=False).identity()["bias"] is False
