"""Guided soft targets against their formula in NumPy, and the bugs of published code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.guided import Guided
from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


def logits(seed, batch=6, classes=10, scale=3.0):
    return np.random.RandomState(seed).normal(size=(batch, classes)) * scale


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def guided(teacher, student, labels, t):
    """The mean of KL(teacher || student) over the images that the teacher knows, row by row."""
    p, q = softmax(teacher / t), softmax(student / t)
    rows = [
        sum(a * np.log(a / b) for a, b in zip(one, other, strict=True))
        for one, other, z, label in zip(p, q, teacher, labels, strict=True)
        if z.argmax() == label
    ]
    return t * t * np.mean(rows) if rows else 0.0


def loss_of(pair, at, student, teachers, labels, method=Guided, **settings):
    method = method(method.Config(**settings), pair(teachers=len(teachers)))
    student, *teachers = (torch.as_tensor(z) for z in (student, *teachers))
    size = len(student)
    labels = torch.as_tensor(labels)
    batch = Batch(torch.zeros(size, 1, 8, 8), labels, torch.arange(size))
    return method(Output(student, {}), [Output(z, {}) for z in teachers], batch, at)


def some_right(teacher):
    """Labels of which the teacher knows the first three."""
    labels = teacher.argmax(axis=1)
    labels[3:] = (labels[3:] + 1) % teacher.shape[1]
    return labels


@pytest.mark.parametrize("t", [1.0, 4.0, 20.0])
def test_is_the_formula_of_the_paper(pair, progress, t):
    s, z = logits(0), logits(1)
    found = loss_of(pair, progress(), s, [z], some_right(z), temperature=t).item()
    assert found == pytest.approx(guided(z, s, some_right(z), t), rel=1e-10)


def test_a_teacher_that_knows_all_gives_plain_soft_targets(pair, progress):
    s, z = logits(0), logits(1)
    labels = z.argmax(axis=1)
    found = loss_of(pair, progress(), s, [z], labels, temperature=4.0).item()
    plain = loss_of(pair, progress(), s, [z], labels, method=SoftTargets, temperature=4.0).item()
    assert found == pytest.approx(plain, rel=1e-12)


def test_a_teacher_that_knows_none_costs_nothing_and_is_no_nan(pair, progress):
    """Published code divides by the number of images that the teacher knows, here 0."""
    z = logits(1)
    s = torch.from_numpy(logits(0)).requires_grad_()
    loss = loss_of(pair, progress(), s, [z], (z.argmax(axis=1) + 1) % 10)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(s.grad, torch.zeros_like(s))


def test_an_impossible_class_of_a_known_image_adds_nothing(pair, progress):
    """Published code sets each target of exactly 0 to 1, which costs -log q of that class."""
    z = torch.tensor([[200.0, 198.0, 0.0], [0.0, 300.0, 300.0 - 1e-3]])
    s = torch.tensor([[1.0, 0.5, -2.0], [0.0, 1.0, -1.0]])
    assert (z.softmax(1) == 0).any(), "an impossible class is what this is about"
    method = loss_of(_three(pair), progress(), s, [z], [0, 1])
    wanted = guided(z.double().numpy(), s.double().numpy(), [0, 1], 1.0)
    assert method.item() == pytest.approx(wanted, rel=1e-5)
    p, log_q = z.softmax(1), s.log_softmax(1)
    replaced = torch.where(p == 0, 1.0, p)
    published = (replaced * (replaced.log() - log_q)).sum() / 2
    assert published > method + 1.0


def test_gradient_of_images_that_the_teacher_gets_wrong_is_zero(pair, progress):
    z = logits(1)
    s = torch.from_numpy(logits(0)).requires_grad_()
    loss_of(pair, progress(), s, [z], some_right(z)).backward()
    wanted = (softmax(s.detach().numpy()) - softmax(z)) / 3
    wanted[3:] = 0
    np.testing.assert_allclose(s.grad.numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_each_teacher_is_heard_where_it_is_right_itself(pair, progress):
    s, one, other = logits(0), logits(1), logits(2)
    labels = some_right(one)
    labels[4] = other[4].argmax()
    wanted = (guided(one, s, labels, 1.0) + guided(other, s, labels, 1.0)) / 2
    assert guided(other, s, labels, 1.0) > 0
    found = loss_of(pair, progress(), s, [one, other], labels).item()
    assert found == pytest.approx(wanted, rel=1e-10)


def test_one_image(pair, progress):
    s, z = logits(0, batch=1), logits(1, batch=1)
    found = loss_of(pair, progress(), s, [z], z.argmax(axis=1)).item()
    assert found == pytest.approx(guided(z, s, z.argmax(axis=1), 1.0), rel=1e-10)


def test_student_and_teachers_must_know_the_same_classes(pair):
    uneven = replace(pair(), teachers=list(pair(classes=7).teachers))
    with pytest.raises(ConfigError, match="student has 10 and teacher 1 has 7"):
        Guided(Guided.Config(), uneven)


def _three(pair):
    return lambda teachers: pair(teachers=teachers, classes=3)
