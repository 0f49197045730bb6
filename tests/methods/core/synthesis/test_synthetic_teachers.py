"""The synthetic teachers of Tang et al. 2020 against their definitions in NumPy.

``partial_teacher``, ``top_classes``, ``class_similarity`` and ``partial_similarity``; and what
their gradients say of soft targets.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.objective.soft_labels import drop_class, join_class, select_class
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network, Output

LABELS = np.array([3, 0, 9, 3, 1, 5])
ALL = ("partial_teacher", "top_classes", "class_similarity", "partial_similarity")
WITH_WEIGHTS = ("class_similarity", "partial_similarity")


def logits(seed, batch=6, classes=10, scale=3.0):
    return np.random.RandomState(seed).normal(size=(batch, classes)) * scale


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def similarity(weights, sharpness):
    """[C, C] probabilities, row by row."""
    unit = [w / np.sqrt((w * w).sum()) for w in weights]
    return np.array([softmax(np.array([a @ b for b in unit]) / sharpness) for a in unit])


def target(name, z, label, t, weights, sharpness=0.3, fraction=0.2):
    """rho of one example, class by class."""
    p, count = softmax(z / t), len(z)
    table = similarity(weights, sharpness)[label]
    if name == "class_similarity":
        return table
    kept = {int(label)}
    if name == "top_classes":
        kept |= {int(c) for c in np.argsort(-p)[: max(1, round(fraction * count))]}
    alike = table if name == "partial_similarity" else np.ones(count)
    rest = 1 - sum(p[c] for c in kept)
    whole = sum(alike[c] for c in range(count) if c not in kept)
    return np.array([p[c] if c in kept else rest * alike[c] / whole for c in range(count)])


def reference(name, z, s, labels, t, weights, **settings):
    """T^2 * mean KL(rho || q), term by term."""
    losses = []
    for row, student, label in zip(z, s, labels, strict=True):
        rho, q = target(name, row, label, t, weights, **settings), softmax(student / t)
        losses.append(sum(a * np.log(a / b) for a, b in zip(rho, q, strict=True) if a > 0))
    return t * t * np.mean(losses)


@pytest.fixture
def exact(pair):
    """What a method is built with, in float64: ``exact(teachers=2, classes=10)``."""

    def of(teachers=1, classes=10):
        built = pair(teachers, classes)
        for network in (built.student, *built.teachers):
            network.double()
        return replace(built, sample=built.sample.double())

    return of


def last_layer(pair, teacher=0):
    return pair.teachers[teacher].blocks["head"].fc


def weights_of(pair, teacher=0):
    return last_layer(pair, teacher).weight.detach().numpy()


def loss_of(name, pair, at, student, teachers, labels=LABELS, **settings):
    method = METHODS.load(name)
    module = method(method.Config(**settings), pair)
    student, *teachers = (torch.as_tensor(z) for z in (student, *teachers))
    size = len(student)
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.as_tensor(labels), torch.arange(size))
    return module(Output(student, {}), [Output(z, {}) for z in teachers], batch, at)


@pytest.mark.parametrize("t", [1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("name", ALL)
def test_is_the_definition_of_the_paper(exact, progress, name, classes, t):
    pair = exact(classes=classes)
    s, z, labels = logits(0, classes=classes), logits(1, classes=classes), LABELS % classes
    found = loss_of(name, pair, progress(), s, [z], labels, temperature=t)
    wanted = reference(name, z, s, labels, t, weights_of(pair))
    assert found.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_rows_taken_apart_are_joined_again():
    x, labels = torch.from_numpy(logits(0)), torch.from_numpy(LABELS)
    own, others = select_class(x, labels), drop_class(x, labels)
    wanted = [np.delete(row, label) for row, label in zip(x.numpy(), LABELS, strict=True)]
    np.testing.assert_array_equal(others, wanted)
    assert torch.equal(join_class(own, others, labels), x)


@pytest.mark.parametrize("scale", [1.0, 10.0, 1e4])
@pytest.mark.parametrize("name", ["partial_teacher", "top_classes"])
def test_every_target_sums_to_one_and_keeps_the_true_class(pair, name, scale):
    method = METHODS.load(name)
    module = method(method.Config(temperature=2.0), pair())
    z, labels = torch.from_numpy(logits(1) * scale).float(), torch.from_numpy(LABELS)
    rho = module.target(0, z, labels).exp()
    np.testing.assert_allclose(rho.sum(dim=1), 1, rtol=1e-5)
    own = select_class((z / 2).softmax(dim=1), labels)
    np.testing.assert_allclose(select_class(rho, labels), own, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_targets_made_of_weights_sum_to_one(pair, name):
    method = METHODS.load(name)
    module = method(method.Config(), pair())
    if name == "class_similarity":
        rho = module.targets[0].exp()
    else:
        z, labels = torch.from_numpy(logits(1)).float(), torch.from_numpy(LABELS)
        rho = module.target(0, z, labels).exp()
    np.testing.assert_allclose(rho.sum(dim=1), 1, rtol=1e-5)


@pytest.mark.parametrize("t", [1.0, 4.0])
def test_all_classes_kept_are_soft_targets(exact, progress, t):
    s, z = logits(0), logits(1)
    found = loss_of("top_classes", exact(), progress(), s, [z], fraction=1.0, temperature=t)
    plain = loss_of("soft_targets", exact(), progress(), s, [z], temperature=t)
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)


def test_one_class_kept_is_the_partial_teacher_where_the_teacher_is_right(exact, progress):
    s, z = logits(0), logits(1)
    right = z.argmax(axis=1)
    top = loss_of("top_classes", exact(), progress(), s, [z], right, fraction=0.05)
    partial = loss_of("partial_teacher", exact(), progress(), s, [z], right)
    assert top.item() == pytest.approx(partial.item(), rel=1e-12)
    wrong = loss_of("top_classes", exact(), progress(), s, [z], z.argmin(axis=1), fraction=0.05)
    other = loss_of("partial_teacher", exact(), progress(), s, [z], z.argmin(axis=1))
    assert abs(wrong.item() - other.item()) > 0.01, "the class the teacher took must stay"


@pytest.mark.parametrize("name", ["partial_teacher", "partial_similarity", "top_classes"])
def test_two_classes_leave_nothing_out(exact, progress, name):
    s, z, labels = logits(0, classes=2), logits(1, classes=2), LABELS % 2
    found = loss_of(name, exact(classes=2), progress(), s, [z], labels)
    plain = loss_of("soft_targets", exact(classes=2), progress(), s, [z])
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)


def test_classes_equally_far_apart_are_the_partial_teacher(exact, progress):
    s, z, pair = logits(0), logits(1), exact()
    width = weights_of(pair).shape[1]
    last_layer(pair).weight.data.copy_(torch.eye(10, width) * torch.arange(1, 11)[:, None])
    both = loss_of("partial_similarity", pair, progress(), s, [z])
    partial = loss_of("partial_teacher", pair, progress(), s, [z])
    assert both.item() == pytest.approx(partial.item(), rel=1e-12)


def test_similarity_follows_the_label_and_not_the_teachers_answer(exact, progress):
    s, z, pair = logits(0), logits(1), exact()
    loss = loss_of("class_similarity", pair, progress(), s, [z]).item()
    assert loss_of("class_similarity", pair, progress(), s, [-z]).item() == loss
    other = loss_of("class_similarity", pair, progress(), s, [z], (LABELS + 1) % 10)
    assert abs(other.item() - loss) > 1e-3


def test_lengths_of_class_weights_do_not_matter(exact, progress):
    s, z, pair = logits(0), logits(1), exact()
    loss = loss_of("class_similarity", pair, progress(), s, [z]).item()
    last_layer(pair).weight.data.mul_(torch.linspace(0.1, 9, 10)[:, None])
    scaled = loss_of("class_similarity", pair, progress(), s, [z]).item()
    assert scaled == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_a_teacher_without_class_weights_is_refused(pair, name):
    head = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    told = replace(pair(), teachers=[Network({"head": head}).eval()])
    method = METHODS.load(name)
    with pytest.raises(ConfigError, match="10 rows in the last block; teacher 1 has none"):
        method(method.Config(), told)


@pytest.mark.parametrize("name", ALL)
def test_several_teachers_are_averaged_each_with_its_own_weights(exact, progress, name):
    s, teachers, pair = logits(0), [logits(1), logits(2)], exact(teachers=2)
    each = [reference(name, z, s, LABELS, 4.0, weights_of(pair, i)) for i, z in enumerate(teachers)]
    found = loss_of(name, pair, progress(), s, teachers, temperature=4.0)
    assert found.item() == pytest.approx(np.mean(each), rel=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_is_averaged(exact, progress, name):
    s, z, pair = logits(0), logits(1), exact()
    each = [
        loss_of(name, pair, progress(), s[i : i + 1], [z[i : i + 1]], LABELS[i : i + 1]).item()
        for i in range(6)
    ]
    found = loss_of(name, pair, progress(), s, [z]).item()
    assert found == pytest.approx(np.mean(each), rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_extreme_logits_have_a_finite_loss_and_gradient(pair, progress, name):
    """Also where p_t rounds to 1: the rest, summed class by class, needs no clipping."""
    s = (torch.from_numpy(logits(0)) * 1e3).float().requires_grad_()
    z = (torch.from_numpy(logits(1)) * 1e3).float()
    for labels in (LABELS, z.argmax(dim=1).numpy()):
        loss = loss_of(name, pair(), progress(), s, [z], labels, temperature=1.0)
        loss.backward()
        assert loss.isfinite()
        assert s.grad.isfinite().all()


# What gradients say of soft targets


def gradient(objective, pair, at, s, z):
    s = torch.from_numpy(s).requires_grad_()
    batch = Batch(torch.zeros(6, 1, 8, 8), torch.from_numpy(LABELS), torch.arange(6))
    module = Objective.parse(objective).build(pair).double()
    module(Output(s, {}), [Output(torch.from_numpy(z), {})], batch, at)[0].backward()
    return s.grad.numpy() * len(LABELS)


def mixed(method, lam, t):
    """(1 - lam) * CE + lam * H(rho, q~), which has no T^2."""
    taught = {"weight": lam / t**2, "temperature": t}
    return {"cross_entropy": {"weight": 1 - lam}, method: taught}


@pytest.mark.parametrize(("lam", "t"), [(0.5, 1.0), (0.9, 4.0), (0.1, 2.0)])
@pytest.mark.parametrize("method", ["soft_targets", "partial_teacher", "partial_similarity"])
def test_examples_weigh_what_the_teacher_gives_their_true_class(exact, progress, method, lam, t):
    """Tang et al.: the gradient at the true class over that of cross entropy alone."""
    s, z, rows = logits(0), logits(1), np.arange(6)
    found = gradient(mixed(method, lam, t), exact(), progress(), s, z)[rows, LABELS]
    q, q_soft, p_soft = (softmax(x)[rows, LABELS] for x in (s, s / t, z / t))
    weights = (1 - lam) + lam / t * (p_soft - q_soft) / (1 - q)
    np.testing.assert_allclose(found / (q - 1), weights, rtol=1e-9)


@pytest.mark.parametrize(("lam", "t"), [(0.5, 1.0), (0.9, 4.0)])
def test_classes_like_the_true_one_are_pushed_away_less(exact, progress, lam, t):
    s, z = logits(0), logits(1)
    found = gradient(mixed("soft_targets", lam, t), exact(), progress(), s, z)
    other = np.ones_like(found, dtype=bool)
    other[np.arange(6), LABELS] = False
    wanted = (1 - lam) * softmax(s) + lam / t * (softmax(s / t) - softmax(z / t))
    np.testing.assert_allclose(found[other], wanted[other], rtol=1e-9, atol=1e-15)


def test_a_teacher_that_is_always_sure_teaches_the_labels_alone(exact, progress):
    s, z = logits(0), np.zeros((6, 10))
    z[np.arange(6), LABELS] = 50.0
    found = gradient({"partial_teacher": {"temperature": 1.0}}, exact(), progress(), s, z)
    labels = gradient({"cross_entropy": {}}, exact(), progress(), s, z)
    np.testing.assert_allclose(found, labels, rtol=1e-9, atol=1e-15)
