"""Similarities against loops in NumPy, invariances, and the bugs of published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.similarities import Similarities
from stillhouse.spaces.modules.network import Output


def drawn(seed, batch=5, shape=(3, 2, 4)):
    return np.random.RandomState(seed).normal(size=(batch, *shape))


def matrix(maps):
    rows = [x.ravel() for x in maps]
    g = np.array([[sum(a * b) for b in rows] for a in rows])
    return np.array([row / max(np.sqrt(sum(row**2)), 1e-300) for row in g])


def formula(s, t):
    return np.linalg.norm(matrix(s) - matrix(t), "fro") ** 2 / len(s) ** 2


def loss_of(pair, here, student, *teachers, **settings):
    method = Similarities(Similarities.Config(**settings), pair(teachers=len(teachers)))
    size = len(student)

    def says(e, taps):
        return Output(torch.zeros(size, 10), {tap: torch.as_tensor(e) for tap in taps})

    said = [says(e, method.teacher_taps(i)) for i, e in enumerate(teachers)]
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return method(says(student, method.student_taps()), said, batch, here)


@pytest.mark.parametrize("batch", [2, 5, 9])
def test_is_the_formula_of_the_paper(pair, progress, batch):
    s, t = drawn(0, batch), drawn(1, batch, (7, 3, 3))
    assert loss_of(pair, progress(), s, t).item() == pytest.approx(formula(s, t), rel=1e-10)


def test_two_examples_in_closed_form(pair, progress):
    """Orthogonal ones against equal ones: (1, 0) against (1, 1) / sqrt 2, in two rows of two."""
    s, t = np.eye(2).reshape(2, 2, 1, 1), np.ones((2, 2, 1, 1))
    wanted = 2 * ((1 - 0.5**0.5) ** 2 + 0.5) / 4
    assert loss_of(pair, progress(), s, t).item() == pytest.approx(wanted, rel=1e-12)


def test_it_is_the_positions_themselves_that_count_not_their_mean(pair, progress):
    """Maps that differ in where they are excited are alike after pooling, and not here."""
    s = np.zeros((2, 1, 2, 1))
    s[0, 0, 0], s[1, 0, 1] = 1.0, 1.0
    assert loss_of(pair, progress(), s, np.ones((2, 1, 2, 1))).item() > 0.1


def test_turning_and_scaling_either_network_changes_nothing(pair, progress):
    s, t = drawn(0), drawn(1)
    rotation, _ = np.linalg.qr(drawn(2, 24, (24,)))
    turned = (3.0 * s.reshape(5, 24) @ rotation).reshape(s.shape)
    expected = loss_of(pair, progress(), s, t).item()
    assert loss_of(pair, progress(), turned, t).item() == pytest.approx(expected, rel=1e-9)
    assert loss_of(pair, progress(), t, turned).item() == pytest.approx(expected, rel=1e-9)
    assert loss_of(pair, progress(), turned, s).item() == pytest.approx(0.0, abs=1e-12)


def test_it_is_the_rows_that_have_length_1(pair, progress):
    """Normalising the whole matrix is another loss where examples differ in size."""
    s, t = drawn(0) * np.arange(1.0, 6.0).reshape(5, 1, 1, 1), drawn(1)
    g = [torch.from_numpy(x.reshape(5, -1) @ x.reshape(5, -1).T) for x in (s, t)]
    whole = (g[0] / g[0].norm() - g[1] / g[1].norm()).square().mean().item()
    found = loss_of(pair, progress(), s, t).item()
    assert found == pytest.approx(formula(s, t), rel=1e-10)
    assert found != pytest.approx(whole, rel=0.01)


def test_a_dead_example_gives_no_nan_and_no_explosion(pair, progress):
    """Dividing by a clamped length of 1e-12, as public code does, multiplies gradients by 1e12."""
    s = torch.from_numpy(drawn(0)).clone()
    s[2] = 0.0
    s = s.float().requires_grad_()
    loss = loss_of(pair, progress(), s, drawn(1).astype(np.float32))
    loss.backward()
    wanted = formula(s.detach().double().numpy(), drawn(1))
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert s.grad.isfinite().all()
    assert s.grad.abs().max() < 10


def test_one_example_is_like_itself(pair, progress):
    s = torch.from_numpy(drawn(0, 1)).requires_grad_()
    loss = loss_of(pair, progress(), s, drawn(1, 1))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert s.grad.abs().max() == pytest.approx(0.0, abs=1e-12)


def test_gradient_is_that_of_finite_differences(pair, progress):
    s, t = torch.from_numpy(drawn(0)).requires_grad_(), drawn(1)
    assert torch.autograd.gradcheck(lambda x: loss_of(pair, progress(), x, t), (s,))


def test_several_teachers_are_averaged_and_several_blocks_summed(pair, progress):
    s, one, other = drawn(0), drawn(1), drawn(2)
    each = [loss_of(pair, progress(), s, t).item() for t in (one, other)]
    assert loss_of(pair, progress(), s, one, other).item() == pytest.approx(np.mean(each))
    twice = (("conv1", "conv1"), ("conv2", "conv4"))
    assert loss_of(pair, progress(), s, one, at=twice).item() == pytest.approx(2 * each[0])
