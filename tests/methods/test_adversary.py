"""The adversary against its formula in NumPy, and both sides of its game."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from stillhouse.methods.adversary import Adversary, reverse_gradient
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


def logits(seed, batch=6, scale=3.0):
    return np.random.RandomState(seed).normal(size=(batch, 10)) * scale


def method_of(pair, teachers=1, **settings):
    torch.manual_seed(0)
    return Adversary(Adversary.Config(**settings), pair(teachers=teachers)).double()


def loss_of(method, here, student, *teachers):
    size = len(student)
    student, *teachers = (torch.as_tensor(z) for z in (student, *teachers))
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return method(Output(student, {}), [Output(z, {}) for z in teachers], batch, here)


def verdict(method, z):
    """The discriminator's probability of a teacher, layer by layer."""
    first, _, second, _, last = method.discriminator
    for layer in (first, second, last):
        z = z @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        z = z if layer is last else np.where(z > 0, z, 0.2 * z)
    return 1 / (1 + np.exp(-z[:, 0]))


def formula(method, s, *teachers):
    real = np.mean([-np.log(verdict(method, t)) for t in teachers])
    return (real + np.mean(-np.log(1 - verdict(method, s)))) / 2


def test_is_the_cross_entropy_of_the_discriminator(pair, progress):
    method, s, t = method_of(pair), logits(0), logits(1)
    found = loss_of(method, progress(), s, t).item()
    assert found == pytest.approx(formula(method, s, t), rel=1e-10)


def test_several_teachers_are_all_the_real_thing(pair, progress):
    method, s, one, two = method_of(pair, teachers=2), logits(0), logits(1), logits(2)
    found = loss_of(method, progress(), s, one, two).item()
    assert found == pytest.approx(formula(method, s, one, two), rel=1e-10)


def test_a_discriminator_that_guesses_costs_log_2(pair, progress):
    method = method_of(pair)
    for parameter in method.discriminator[-1].parameters():
        parameter.data.zero_()
    found = loss_of(method, progress(), logits(0), logits(1)).item()
    assert found == pytest.approx(np.log(2), rel=1e-12)


def test_reversing_keeps_the_value_to_the_bit_and_turns_the_gradient():
    x = (torch.randn(50) * 1e3).requires_grad_()
    y = reverse_gradient(x, 0.3)
    assert y.equal(x)
    y.sum().backward()
    np.testing.assert_allclose(x.grad, np.full(50, -0.3, dtype=np.float32), rtol=1e-6)


@pytest.mark.parametrize("reversal", [0.5, 2.0])
def test_the_student_climbs_what_the_discriminator_descends(pair, progress, reversal):
    """Against finite differences of the formula: the discriminator's gradient is the loss's own,
    the student's is the opposite, ``reversal`` times."""
    method, s, t = method_of(pair, reversal=reversal, hidden=16), logits(0), logits(1)
    z = torch.from_numpy(s.copy()).requires_grad_()
    loss_of(method, progress(), z, t).backward()
    step = 1e-6
    for row, column in ((0, 0), (3, 7)):
        shift = np.zeros_like(s)
        shift[row, column] = step
        slope = (formula(method, s + shift, t) - formula(method, s - shift, t)) / (2 * step)
        assert z.grad[row, column].item() == pytest.approx(-reversal * slope, rel=1e-4)
    bias = method.discriminator[-1].bias
    found, kept = bias.grad.item(), bias.data.clone()
    bias.data = kept + step
    above = formula(method, s, t)
    bias.data = kept - step
    below = formula(method, s, t)
    assert found == pytest.approx((above - below) / (2 * step), rel=1e-4)


def test_the_discriminator_learns_to_tell_them_apart(pair, progress):
    method, s, t = method_of(pair), logits(0) + 1.0, logits(1) - 1.0
    learn = torch.optim.SGD(method.parameters(), lr=0.05)
    for _ in range(40):
        learn.zero_grad()
        loss_of(method, progress(), s, t).backward()
        learn.step()
    assert loss_of(method, progress(), s, t).item() < 0.1


def test_the_student_learns_to_fool_a_discriminator_that_holds_still(pair, progress):
    method, t = method_of(pair), logits(1)
    z = torch.from_numpy(logits(0)).requires_grad_()
    believed = verdict(method, z.detach().numpy())
    learn = torch.optim.SGD([z], lr=10.0)
    for _ in range(50):
        learn.zero_grad()
        loss_of(method, progress(), z, t).backward()
        learn.step()
    assert (verdict(method, z.detach().numpy()) > believed).all()


def test_logits_beyond_all_bounds_give_no_infinity(pair, progress):
    """log(sigmoid) of public code is -inf where the discriminator is certain."""
    method = method_of(pair).float()
    z = torch.full((6, 10), 1e6).requires_grad_()
    loss = loss_of(method, progress(), z, -torch.full((6, 10), 1e6))
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_nothing_of_it_stays_in_the_student(pair):
    there = pair()
    before = copy.deepcopy(there.student.state_dict())
    module = Objective.parse({"adversary": {}}).build(there)
    own = {id(p) for p in there.student.parameters()}
    assert not own & {id(p) for p in module.parameters()}
    assert all(v.equal(before[k]) for k, v in there.student.state_dict().items())


def test_student_and_teachers_must_know_the_same_classes(pair):
    uneven = replace(pair(), teachers=pair(classes=7).teachers)
    with pytest.raises(ConfigError, match="student has 10 and teacher 1 has 7"):
        Adversary(Adversary.Config(), uneven)
