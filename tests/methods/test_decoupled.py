"""Decoupled distillation against its formula in NumPy, and the bugs of published code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.decoupled import Decoupled
from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output

LABELS = np.array([3, 0, 9, 3, 1, 5])


def logits(seed, batch=6, classes=10, scale=3.0):
    return np.random.RandomState(seed).normal(size=(batch, classes)) * scale


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(p, q):
    return float(np.sum(p * np.log(p / q)))


def parts(z, s, label, t):
    """Of one example: KL of the true class, KL among the others, and the teacher's 1 - p_t."""
    p, q = softmax(z / t), softmax(s / t)
    two = [np.array([x[label], 1 - x[label]]) for x in (p, q)]
    rest = [softmax(np.delete(x, label) / t) for x in (z, s)]
    return kl(*two), kl(*rest), 1 - p[label]


def reference(z, s, labels, alpha, beta, t):
    each = [parts(*row, t) for row in zip(z, s, labels, strict=True)]
    return t * t * np.mean([alpha * target + beta * rest for target, rest, _ in each])


def loss_of(pair, at, student, teachers, labels=LABELS, method=Decoupled, **settings):
    module = method(method.Config(**settings), pair(teachers=len(teachers)))
    student, *teachers = (torch.as_tensor(z) for z in (student, *teachers))
    size = len(student)
    labels = torch.as_tensor(labels)
    batch = Batch(torch.zeros(size, 1, 8, 8), labels, torch.arange(size))
    return module(Output(student, {}), [Output(z, {}) for z in teachers], batch, at)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize("classes", [10, 1000])
def test_is_the_formula_of_the_paper(pair, progress, classes, t, alpha, beta):
    s, z = logits(0, classes=classes), logits(1, classes=classes)
    found = loss_of(pair, progress(), s, [z], alpha=alpha, beta=beta, temperature=t)
    assert found.item() == pytest.approx(reference(z, s, LABELS, alpha, beta, t), rel=1e-9)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_soft_targets_weigh_the_relations_with_what_is_not_the_true_class(pair, progress, t):
    """KD = KL of the true class + (1 - p_t) * KL among the others, example by example."""
    s, z = logits(0), logits(1)
    for row, label in enumerate(LABELS):
        one = slice(row, row + 1)
        target, rest, unsure = parts(z[row], s[row], label, t)
        plain = loss_of(pair, progress(), s[one], [z[one]], method=SoftTargets, temperature=t)
        assert plain.item() == pytest.approx(t * t * (target + unsure * rest), rel=1e-9)
        settings = {"alpha": 1.0, "beta": float(unsure), "temperature": t}
        found = loss_of(pair, progress(), s[one], [z[one]], LABELS[one], **settings)
        assert found.item() == pytest.approx(plain.item(), rel=1e-9)


def test_two_classes_have_no_relations_and_are_soft_targets(pair, progress):
    s, z, labels = logits(0, classes=2), logits(1, classes=2), np.array([0, 1, 1, 0, 1, 0])
    found = [
        loss_of(pair, progress(), s, [z], labels, beta=beta, temperature=4.0).item()
        for beta in (0.5, 8.0)
    ]
    plain = loss_of(pair, progress(), s, [z], method=SoftTargets, temperature=4.0).item()
    assert found == pytest.approx([plain, plain], rel=1e-12)


def test_batch_is_averaged_and_so_are_teachers(pair, progress):
    s, z, other = logits(0), logits(1), logits(2)
    loss = loss_of(pair, progress(), s, [z]).item()
    doubled = loss_of(
        pair, progress(), np.tile(s, (2, 1)), [np.tile(z, (2, 1))], np.tile(LABELS, 2)
    )
    assert doubled.item() == pytest.approx(loss, rel=1e-12)
    mean = (loss + loss_of(pair, progress(), s, [other]).item()) / 2
    assert loss_of(pair, progress(), s, [z, other]).item() == pytest.approx(mean, rel=1e-12)


def test_names_of_classes_and_constants_do_not_matter(pair, progress):
    s, z = logits(0), logits(1)
    order = np.random.RandomState(5).permutation(10)
    loss = loss_of(pair, progress(), s, [z]).item()
    renamed = loss_of(pair, progress(), s[:, order], [z[:, order]], np.argsort(order)[LABELS])
    assert renamed.item() == pytest.approx(loss, rel=1e-12)
    assert loss_of(pair, progress(), s + 7, [z - 9]).item() == pytest.approx(loss, rel=1e-9)


def test_relations_alone_leave_the_true_class_alone(pair, progress):
    s = torch.from_numpy(logits(0)).requires_grad_()
    loss_of(pair, progress(), s, [logits(1)], alpha=0.0).backward()
    own = s.grad[torch.arange(6), torch.from_numpy(LABELS)]
    np.testing.assert_allclose(own, 0, atol=1e-15)
    np.testing.assert_allclose(s.grad.sum(dim=1), 0, atol=1e-12)


def test_a_sure_teacher_keeps_its_relations_in_float32(pair, progress):
    """1 - p_t taken as a difference is 0 in float32 from a lead of 17 on."""
    s, z = logits(0, scale=1.0), logits(1, scale=1.0)
    for x in (s, z):
        x[np.arange(6), LABELS] += 30
    wanted = np.mean([kl(*(softmax(np.delete(x[i], LABELS[i])) for x in (z, s))) for i in range(6)])
    for scale in (1, 1000):
        # A mask of -1000 would let the true class back in at the second scale.
        far = [x.copy() for x in (s, z)]
        for x in far:
            x[np.arange(6), LABELS] *= scale
        s32, z32 = (torch.from_numpy(x).float() for x in far)
        found = loss_of(pair, progress(), s32, [z32], alpha=0.0, beta=1.0, temperature=1.0)
        assert found.item() == pytest.approx(wanted, rel=1e-4)


def test_extreme_logits_have_a_finite_loss_and_gradient(pair, progress):
    """The logarithm of a probability that has become 0 is what breaks softmax-then-log."""
    s = (torch.from_numpy(logits(0)) * 1e3).float().requires_grad_()
    z = (torch.from_numpy(logits(1)) * 1e3).float()
    assert (s.softmax(1) == 0).any()
    loss = loss_of(pair, progress(), s, [z], temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert s.grad.isfinite().all()


def test_settings_that_teach_nothing_are_refused(pair):
    with pytest.raises(ConfigError, match="alpha: teaches nothing"):
        Decoupled(Decoupled.Config(alpha=0.0, beta=0.0), pair())
    with pytest.raises(ConfigError, match="classes 2; raise alpha"):
        Decoupled(Decoupled.Config(alpha=0.0), pair(classes=2))


def test_student_and_teachers_must_know_the_same_classes(pair):
    uneven = replace(pair(), teachers=pair(classes=7).teachers)
    with pytest.raises(ConfigError, match="student has 10 and teacher 1 has 7"):
        Decoupled(Decoupled.Config(), uneven)
