"""Entropy-weighted soft targets against their formula in NumPy, and the bugs of published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.entropy_weighted import EntropyWeighted
from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.spaces.modules.network import Output


def logits(seed, batch=6, classes=10, scale=3.0):
    return np.random.RandomState(seed).normal(size=(batch, classes)) * scale


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(p, q):
    return float(np.sum(p * np.log(p / q)))


def entropy(z):
    """As a share of the largest there is."""
    return -sum(r * np.log(r) for r in softmax(z)) / np.log(len(z))


def shares(teachers, example, sharpness):
    return softmax(np.array([-sharpness * entropy(z[example]) for z in teachers]))


def reference(teachers, s, t, sharpness):
    losses = [
        sum(
            share * kl(softmax(z[b] / t), softmax(s[b] / t))
            for share, z in zip(shares(teachers, b, sharpness), teachers, strict=True)
        )
        for b in range(len(s))
    ]
    return t * t * np.mean(losses)


def loss_of(pair, at, student, teachers, method=EntropyWeighted, **settings):
    module = method(method.Config(**settings), pair(teachers=len(teachers)))
    student, *teachers = (torch.as_tensor(z) for z in (student, *teachers))
    size = len(student)
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return module(Output(student, {}), [Output(z, {}) for z in teachers], batch, at)


@pytest.mark.parametrize("sharpness", [0.0, 5.0, 50.0])
@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_is_its_formula(pair, progress, classes, t, sharpness):
    s, teachers = logits(0, classes=classes), [logits(i, classes=classes) for i in (1, 2, 3)]
    found = loss_of(pair, progress(), s, teachers, sharpness=sharpness, temperature=t)
    assert found.item() == pytest.approx(reference(teachers, s, t, sharpness), rel=1e-9)


def test_one_teacher_is_soft_targets(pair, progress):
    """Weights of 1 - H / sum H would be 0 here, and those over teachers - 1 would not exist."""
    s, z = logits(0), logits(1)
    plain = loss_of(pair, progress(), s, [z], SoftTargets)
    assert loss_of(pair, progress(), s, [z]).item() == pytest.approx(plain.item(), rel=1e-12)


def test_no_sharpness_is_the_mean_of_the_teachers(pair, progress):
    """Weights that already sum to 1 are not divided by the number of teachers again."""
    s, teachers = logits(0), [logits(i) for i in (1, 2, 3)]
    plain = loss_of(pair, progress(), s, teachers, SoftTargets)
    found = loss_of(pair, progress(), s, teachers, sharpness=0.0)
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)


def test_the_surest_teacher_of_each_example_speaks_alone_in_the_limit(pair, progress):
    s, teachers = logits(0), [logits(i) for i in (1, 2, 3)]
    surest = [min(range(3), key=lambda i: entropy(teachers[i][b])) for b in range(6)]
    assert len(set(surest)) > 1, "the example must be one where teachers take turns"
    alone = np.stack([teachers[i][b] for b, i in enumerate(surest)])
    plain = loss_of(pair, progress(), s, [alone], SoftTargets)
    found = loss_of(pair, progress(), s, teachers, sharpness=1e5)
    assert found.item() == pytest.approx(plain.item(), rel=1e-9)


def test_gradient_is_that_of_imitating_the_weighted_mean_of_probabilities(pair, progress):
    s, teachers, t = logits(0), [logits(i) for i in (1, 2)], 4.0
    mean = np.stack(
        [
            sum(
                share * softmax(z[b] / t)
                for share, z in zip(shares(teachers, b, 5.0), teachers, strict=True)
            )
            for b in range(6)
        ]
    )
    student = torch.from_numpy(s).requires_grad_()
    loss_of(pair, progress(), student, teachers, sharpness=5.0, temperature=t).backward()
    q = np.stack([softmax(row / t) for row in s])
    np.testing.assert_allclose(student.grad, t * (q - mean) / 6, rtol=1e-9, atol=1e-12)


def test_order_of_teachers_and_of_examples_does_not_matter(pair, progress):
    s, teachers = logits(0), [logits(i) for i in (1, 2, 3)]
    loss = loss_of(pair, progress(), s, teachers).item()
    turned = loss_of(pair, progress(), s[::-1].copy(), [z[::-1].copy() for z in teachers[::-1]])
    assert turned.item() == pytest.approx(loss, rel=1e-12)


def test_certain_teachers_share_equally_without_nan(pair, progress):
    """0 * log 0, and the sum of entropies that are all 0, are NaN where they are divided."""
    s = torch.from_numpy(logits(0)).float().requires_grad_()
    teachers = [torch.eye(10)[torch.arange(6) + i] * 1e4 for i in (0, 1, 2)]
    loss = loss_of(pair, progress(), s, teachers, temperature=1.0)
    loss.backward()
    q = s.detach().log_softmax(dim=1)
    wanted = -torch.stack([q[torch.arange(6), torch.arange(6) + i] for i in (0, 1, 2)]).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert s.grad.isfinite().all()


def test_an_uncertain_teacher_is_hushed_example_by_example(pair, progress):
    s, sure, flat = logits(0), logits(1, scale=30.0), np.zeros((6, 10))
    found = loss_of(pair, progress(), s, [sure, flat], sharpness=50.0).item()
    alone = loss_of(pair, progress(), s, [sure], SoftTargets).item()
    assert found == pytest.approx(alone, rel=1e-2)
