"""Soft targets against their formula in NumPy, and the bugs of published code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


def logits(seed, batch=6, classes=10, scale=3.0):
    return np.random.RandomState(seed).normal(size=(batch, classes)) * scale


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def divergence(teacher, student, t):
    """T^2 times the mean over the batch of KL(teacher || student), element by element."""
    p, q = softmax(teacher / t), softmax(student / t)
    return t * t * np.mean([sum(a * np.log(a / b) for a, b in zip(*r)) for r in zip(p, q)])  # noqa: B905


def loss_of(pair, at, student, teachers, **settings):
    method = SoftTargets(SoftTargets.Config(**settings), pair(teachers=len(teachers)))
    student, *teachers = (torch.as_tensor(z) for z in (student, *teachers))
    size = len(student)
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return method(Output(student, {}), [Output(z, {}) for z in teachers], batch, at)


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_is_the_formula_of_the_paper(pair, progress, t, classes):
    s, z = logits(0, classes=classes), logits(1, classes=classes)
    found = loss_of(pair, progress(), s, [z], temperature=t)
    assert found.item() == pytest.approx(divergence(z, s, t), rel=1e-10)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_element_wise_mean_would_be_weaker_by_the_number_of_classes(pair, progress, classes):
    s, z = logits(0, classes=classes), logits(1, classes=classes)
    log_q, log_p = (torch.from_numpy(x / 4).log_softmax(1) for x in (s, z))
    weaker = 16 * F.kl_div(log_q, log_p, log_target=True, reduction="none").mean()
    found = loss_of(pair, progress(), s, [z], temperature=4.0)
    assert found.item() == pytest.approx(classes * weaker.item(), rel=1e-10)


def test_is_zero_exactly_where_logits_match_up_to_a_constant(pair, progress):
    z = logits(2)
    assert loss_of(pair, progress(), z, [z]).item() == 0.0
    assert loss_of(pair, progress(), z + 5.0, [z]).item() == pytest.approx(0.0, abs=1e-12)
    assert loss_of(pair, progress(), logits(3), [z]).item() > 0.1


@pytest.mark.parametrize("t", [1.0, 3.0])
def test_gradient_is_temperature_times_the_difference_of_probabilities(pair, progress, t):
    s = torch.from_numpy(logits(0)).requires_grad_()
    z = torch.from_numpy(logits(1)).requires_grad_()
    loss_of(pair, progress(), s, [z.detach()], temperature=t).backward()
    expected = t * (softmax(s.detach().numpy() / t) - softmax(logits(1) / t)) / len(s)
    np.testing.assert_allclose(s.grad.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_hot_temperature_matches_logits(pair, progress):
    """Hinton et al., section 2.1: the gradient nears (z_s - z_t) / C for logits of mean 0."""
    s, z = logits(0), logits(1)
    s, z = (x - x.mean(axis=1, keepdims=True) for x in (s, z))
    s = torch.from_numpy(s).requires_grad_()
    loss_of(pair, progress(), s, [z], temperature=1e4).backward()
    expected = (s.detach().numpy() - z) / 10 / len(z)
    np.testing.assert_allclose(s.grad.numpy(), expected, rtol=0.01, atol=1e-4)


def test_a_certain_teacher_costs_the_cross_entropy_of_its_class(pair, progress):
    """Probabilities that are exactly 0 in float32 add nothing, and give no NaN."""
    s = torch.from_numpy(logits(0)).float().requires_grad_()
    z = torch.full((6, 10), -1e4)
    z[:, 3] = 1e4
    loss = loss_of(pair, progress(), s, [z], temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(-s.log_softmax(1)[:, 3].mean().item(), rel=1e-5)
    assert s.grad.isfinite().all()


def test_several_teachers_are_averaged_or_summed(pair, progress):
    s, teachers = logits(0), [logits(i) for i in (1, 2, 3)]
    each = [divergence(z, s, 4.0) for z in teachers]
    assert loss_of(pair, progress(), s, teachers).item() == pytest.approx(np.mean(each))
    summed = loss_of(pair, progress(), s, teachers, combine="sum")
    assert summed.item() == pytest.approx(np.sum(each))


def test_dropping_leaves_out_that_many_each_step_and_every_one_in_turn(pair, progress):
    s, teachers = logits(0), [logits(i) for i in (1, 2, 3)]
    each = [divergence(z, s, 4.0) for z in teachers]
    without = {i: sum(each) - loss for i, loss in enumerate(each)}
    seen = set()
    for step in range(30):
        at = progress(epoch=step % 3, step=step // 3)
        found = loss_of(pair, at, s, teachers, combine="sum", drop=1).item()
        again = loss_of(pair, at, s, teachers, combine="sum", drop=1).item()
        assert found == again, "the same step must leave out the same teacher"
        (left_out,) = [i for i, loss in without.items() if loss == pytest.approx(found)]
        seen.add(left_out)
    assert seen == {0, 1, 2}


def test_mean_after_dropping_is_over_those_heard(pair, progress):
    s, teachers = logits(0), [logits(i) for i in (1, 2, 3)]
    at = progress(step=2)
    mean = loss_of(pair, at, s, teachers, drop=1).item()
    assert mean == pytest.approx(loss_of(pair, at, s, teachers, drop=1, combine="sum").item() / 2)


def test_one_teacher_must_remain(pair):
    with pytest.raises(ConfigError, match="drop: leaves no teacher: 2 of 2 dropped"):
        SoftTargets(SoftTargets.Config(drop=2), pair(teachers=2))


def test_student_and_teachers_must_know_the_same_classes(pair):
    uneven = replace(pair(), teachers=[*pair().teachers, *pair(classes=7).teachers])
    with pytest.raises(ConfigError, match="student has 10 and teacher 2 has 7"):
        SoftTargets(SoftTargets.Config(), uneven)
