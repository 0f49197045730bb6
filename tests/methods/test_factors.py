"""Factors against their formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.factors import Factors
from stillhouse.spaces.modules.network import Output

BATCH = Batch(torch.zeros(3, 1, 8, 8), torch.zeros(3).long(), torch.arange(3))
LOGITS = torch.zeros(3, 10)


def maps(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def unit(x):
    flat = x.reshape(len(x), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def convolved(x, weight):
    """3x3, one pixel of zeros around, written out."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    found = 0.0
    for i in range(3):
        for j in range(3):
            window = padded[:, :, i : i + height, j : j + width]
            found = found + np.einsum("oc,bchw->bohw", weight[:, :, i, j], window)
    return found


def translated(x, translator, eps=1e-5):
    for unit_ in translator:
        x = convolved(x, unit_[0].weight.detach().numpy())
        mean, variance = (f(x, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.var))
        x = (x - mean) / np.sqrt(variance + eps)
        x = np.where(x > 0, x, 0.1 * x)
    return x


def made(pair, identity=False, teachers=1):
    method = Factors(Factors.Config(), pair(teachers=teachers)).double()
    for connectors in method.connectors if identity else ():
        connectors[0] = nn.Identity()
    return method


def loss_of(method, at, student, *teachers):
    mine, *theirs = (torch.as_tensor(x) for x in (student, *teachers))
    said = [Output(LOGITS, {"conv4": t}) for t in theirs]
    return method(Output(LOGITS, {"conv2": mine}), said, BATCH, at)


def test_is_the_formula_of_the_paper_with_a_translator_for_each_teacher(pair, progress):
    method = made(pair, teachers=2)
    s, teachers = maps(0, 3, 16, 3, 2), [maps(i, 3, 32, 3, 2) for i in (1, 2)]
    each = [
        np.abs(unit(t) - unit(translated(s, connectors[0]))).sum(axis=1).mean()
        for t, connectors in zip(teachers, method.connectors, strict=True)
    ]
    found = loss_of(method, progress(), s, *teachers).item()
    assert found == pytest.approx(np.mean(each), rel=1e-9)


def test_translators_have_the_published_shape(pair):
    translator = made(pair).connectors[0][0]
    assert [tuple(unit_[0].weight.shape[:2]) for unit_ in translator] == [
        (16, 16),
        (32, 16),
        (32, 32),
    ]
    assert all(unit_[2].negative_slope == 0.1 for unit_ in translator)


def test_is_the_norm_of_the_paper_not_a_mean_over_elements(pair, progress):
    """A published weight for the mean is divided by C H W here."""
    s, t = maps(0, 3, 4, 2, 2), maps(1, 3, 4, 2, 2)
    found = loss_of(made(pair, identity=True), progress(), s, t).item()
    assert found == pytest.approx(16 * np.mean(np.abs(unit(s) - unit(t))), rel=1e-10)


def test_more_teachers_do_not_weigh_more(pair, progress):
    """The paper's sum would scale the gradient with their number."""
    s, t = maps(0, 3, 32, 2, 2), maps(1, 3, 32, 2, 2)
    one = loss_of(made(pair, identity=True), progress(), s, t).item()
    three = loss_of(made(pair, identity=True, teachers=3), progress(), s, t, t, t).item()
    assert three == pytest.approx(one, rel=1e-12)


def test_scale_does_not_matter_and_equal_maps_cost_nothing(pair, progress):
    method, s, t = made(pair, identity=True), maps(0, 3, 4, 2, 2), maps(1, 3, 4, 2, 2)
    base = loss_of(method, progress(), s, t).item()
    assert loss_of(method, progress(), 7 * s, t / 3).item() == pytest.approx(base, rel=1e-10)
    assert loss_of(method, progress(), 7 * s, s).item() == pytest.approx(0.0, abs=1e-12)


def test_opposite_maps_are_twice_their_own_length_apart(pair, progress):
    s = np.ones((3, 4, 2, 2))
    found = loss_of(made(pair, identity=True), progress(), s, -s).item()
    assert found == pytest.approx(2 * 16 / np.sqrt(16), rel=1e-12)


def test_a_map_of_zeros_has_no_direction(pair, progress):
    s = torch.zeros(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    loss = loss_of(made(pair, identity=True), progress(), s, maps(1, 3, 4, 2, 2))
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(s.grad, torch.zeros_like(s))
