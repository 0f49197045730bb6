"""DIST against correlations by NumPy, and the bugs of published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.dist import Dist
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


def logits(seed, batch=6, classes=10, scale=3.0):
    return np.random.RandomState(seed).normal(size=(batch, classes)) * scale


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def distances(p, q):
    return np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])


def loss_of(pair, at, student, teachers, **settings):
    module = Dist(Dist.Config(**settings), pair(teachers=len(teachers)))
    student, *teachers = (torch.as_tensor(z) for z in (student, *teachers))
    size = len(student)
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return module(Output(student, {}), [Output(z, {}) for z in teachers], batch, at)


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 2.0), (1.0, 0.0), (0.0, 3.0)])
@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_is_the_formula_of_the_paper(pair, progress, classes, t, beta, gamma):
    s, z = logits(0, classes=classes), logits(1, classes=classes)
    p, q = softmax(z / t), softmax(s / t)
    wanted = beta * distances(p, q) + gamma * distances(p.T, q.T)
    found = loss_of(pair, progress(), s, [z], beta=beta, gamma=gamma, temperature=t)
    assert found.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_two_classes_agree_or_contradict(pair, progress):
    """Two numbers correlate by 1 or -1: the first term counts the contradictions."""
    s, z = (np.array([[k, 0.0] for k in row]) for row in ([1, 2, 3, -1], [5, -4, 1, 2]))
    assert loss_of(pair, progress(), s, [z], beta=1.0, gamma=0.0).item() == pytest.approx(1.0)


def test_flat_probabilities_of_a_copy_still_correlate_fully(pair, progress):
    """An epsilon of 1e-8 added to the lengths' product costs a copy more than 0 here."""
    z = logits(2, classes=1000, scale=0.01)
    p = softmax(z / 20)
    centred = p - p.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1)
    assert 1 - np.mean(squares / (squares + 1e-8)) > 0.9
    found = loss_of(pair, progress(), z, [z], temperature=20.0)
    assert found.item() == pytest.approx(0.0, abs=1e-12)


def test_examples_classes_and_constants_are_interchangeable(pair, progress):
    s, z = logits(0), logits(1)
    loss = loss_of(pair, progress(), s, [z]).item()
    rows, columns = (
        np.random.RandomState(3).permutation(6),
        np.random.RandomState(4).permutation(10),
    )
    moved = loss_of(pair, progress(), s[rows][:, columns], [z[rows][:, columns]])
    assert moved.item() == pytest.approx(loss, rel=1e-12)
    assert loss_of(pair, progress(), s + 5, [z - 3]).item() == pytest.approx(loss, rel=1e-9)


def test_temperature_does_not_shrink_the_gradient_once_it_is_hot(pair, progress):
    """Correlations have no scale, so unlike soft targets they need no factor T^2."""
    grads = []
    for t in (200.0, 400.0):
        s = torch.from_numpy(logits(0)).requires_grad_()
        loss_of(pair, progress(), s, [logits(1)], temperature=t).backward()
        grads.append(s.grad.numpy())
    assert np.abs(grads[0]).max() > 1e-3
    np.testing.assert_allclose(grads[0], grads[1], rtol=0.05, atol=1e-3)


def test_a_hot_temperature_correlates_the_logits(pair, progress):
    s, z = logits(0), logits(1)
    found = loss_of(pair, progress(), s, [z], beta=1.0, gamma=0.0, temperature=1e5)
    assert found.item() == pytest.approx(distances(z, s), rel=1e-3)


def test_gradient_is_that_of_finite_differences(pair, progress):
    z = torch.from_numpy(logits(1, batch=3, classes=4))
    s = torch.from_numpy(logits(0, batch=3, classes=4)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_of(pair, progress(), x, [z]), s)


def test_a_batch_of_one_has_relations_between_classes_alone(pair, progress):
    s, z = logits(0, batch=1), logits(1, batch=1)
    wanted = 2.0 * distances(softmax(z / 4), softmax(s / 4))
    assert loss_of(pair, progress(), s, [z]).item() == pytest.approx(wanted, rel=1e-9)


def test_classes_that_the_teacher_never_tells_apart_are_left_out(pair, progress):
    """Column 0 is the same for all examples: it has no correlation, and the mean is over 3."""
    p, q = softmax(logits(0, classes=4)), softmax(logits(1, classes=4))
    p[:, 1:] *= 0.75 / p[:, 1:].sum(axis=1, keepdims=True)
    p[:, 0] = 0.25
    settings = {"beta": 0.0, "gamma": 1.0, "temperature": 1.0}
    found = loss_of(pair, progress(), np.log(q), [np.log(p)], **settings)
    assert found.item() == pytest.approx(distances(p.T[1:], q.T[1:]), rel=1e-9)


@pytest.mark.parametrize("teacher", [logits(1), np.ones((6, 10))])
def test_a_student_that_knows_nothing_gives_no_gradient_and_no_nan(pair, progress, teacher):
    s = torch.ones(6, 10).requires_grad_()
    loss = loss_of(pair, progress(), s, [torch.from_numpy(teacher).float()])
    loss.backward()
    assert loss.item() == pytest.approx(4.0 if teacher.std() > 0 else 0.0)
    assert (s.grad == 0).all()


@pytest.mark.parametrize("scale", [1e3, 1e-6])
def test_extreme_logits_have_a_finite_loss_and_gradient(pair, progress, scale):
    s = (torch.from_numpy(logits(0)) * scale).float().requires_grad_()
    z = (torch.from_numpy(logits(1)) * scale).float()
    loss = loss_of(pair, progress(), s, [z], temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert s.grad.isfinite().all()


def test_several_teachers_are_averaged(pair, progress):
    s, teachers = logits(0), [logits(i) for i in (1, 2, 3)]
    each = [loss_of(pair, progress(), s, [z]).item() for z in teachers]
    found = loss_of(pair, progress(), s, teachers).item()
    assert found == pytest.approx(np.mean(each), rel=1e-12)


def test_settings_that_teach_nothing_are_refused(pair):
    with pytest.raises(ConfigError, match="beta: teaches nothing"):
        Dist(Dist.Config(beta=0.0, gamma=0.0), pair())
