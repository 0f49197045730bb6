"""Contrast against InfoNCE in NumPy, its bounds, and what its projections learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.contrast import Contrast
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.spaces.modules.network import Output


def drawn(seed, batch=6, width=64):
    return np.random.RandomState(seed).normal(size=(batch, width))


def method_of(pair, teachers=1, **settings):
    torch.manual_seed(0)
    return Contrast(Contrast.Config(**settings), pair(teachers=teachers)).double()


def widths(method):
    own = method.student_sides[0].in_features
    return own, method.teacher_sides[0].in_features


def loss_of(method, here, student, *teachers):
    size = len(student)

    def says(e, taps):
        return Output(torch.zeros(size, 10), {tap: torch.as_tensor(e) for tap in taps})

    said = [says(e, method.teacher_taps(i)) for i, e in enumerate(teachers)]
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return method(says(student, method.student_taps()), said, batch, here)


def projected(side, e):
    y = e @ side.weight.detach().numpy().T + side.bias.detach().numpy()
    return y / np.sqrt((y**2).sum(axis=1, keepdims=True))


def info_nce(s, t, temperature):
    """Both directions, one image at a time."""
    costs = []
    for i in range(len(s)):
        for anchor, others in ((s[i], t), (t[i], s)):
            odds = np.exp(np.array([anchor @ other for other in others]) / temperature)
            costs.append(-np.log(odds[i] / odds.sum()))
    return np.mean(costs)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("batch", [2, 6])
def test_is_info_nce_in_both_directions(pair, progress, batch, temperature):
    method = method_of(pair, temperature=temperature, width=8)
    own, other = widths(method)
    s, t = drawn(0, batch, own), drawn(1, batch, other)
    sides = projected(method.student_sides[0], s), projected(method.teacher_sides[0], t)
    found = loss_of(method, progress(), s, t).item()
    assert found == pytest.approx(info_nce(*sides, temperature), rel=1e-9)


def test_embeddings_that_say_nothing_cost_the_logarithm_of_the_batch(pair, progress):
    method = method_of(pair)
    own, other = widths(method)
    found = loss_of(method, progress(), np.ones((6, own)), np.ones((6, other)))
    assert found.item() == pytest.approx(np.log(6), rel=1e-9)


def test_perfectly_told_apart_costs_what_the_temperature_leaves(pair, progress):
    """Orthonormal on both sides: -log(e^(1/T) / (e^(1/T) + B - 1))."""
    method = method_of(pair, width=6, temperature=0.5)
    for side in (method.student_sides[0], method.teacher_sides[0]):
        side.weight.data = torch.eye(6, dtype=torch.float64)
        side.bias.data.zero_()
    found = loss_of(method, progress(), np.eye(6), 3.0 * np.eye(6)).item()
    assert found == pytest.approx(np.log1p(5 * np.exp(-2)), rel=1e-9)


def test_one_example_has_nothing_to_be_told_from(pair, progress):
    method = method_of(pair)
    own, other = widths(method)
    s = torch.from_numpy(drawn(0, 1, own)).requires_grad_()
    loss = loss_of(method, progress(), s, drawn(1, 1, other))
    loss.backward()
    assert loss.item() == 0.0
    assert not s.grad.any()


def test_the_order_of_the_batch_does_not_matter(pair, progress):
    method = method_of(pair)
    own, other = widths(method)
    s, t, order = drawn(0, 6, own), drawn(1, 6, other), [3, 1, 5, 0, 2, 4]
    found = loss_of(method, progress(), s[order], t[order]).item()
    assert found == pytest.approx(loss_of(method, progress(), s, t).item(), rel=1e-12)
    wrong = loss_of(method, progress(), s[order], t).item()
    assert wrong != pytest.approx(found, rel=1e-6), "which image is which does"


def test_both_projections_learn_and_every_teacher_has_its_own(pair, progress):
    method = method_of(pair, teachers=2, width=8)
    own, other = widths(method)
    s, one, two = drawn(0, 6, own), drawn(1, 6, other), drawn(2, 6, other)
    loss = loss_of(method, progress(), s, one, two)
    loss.backward()
    assert len(list(method.parameters())) == 8
    # A cosine does not change where the projection only grows, but every weight does turn it.
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())
    sides = zip(method.student_sides, method.teacher_sides, (one, two), strict=True)
    each = [info_nce(projected(a, s), projected(b, t), 0.07) for a, b, t in sides]
    assert loss.item() == pytest.approx(np.mean(each), rel=1e-9)


def test_descending_it_tells_examples_apart(pair, progress):
    method = method_of(pair, width=16)
    own, other = widths(method)
    s, t = drawn(0, 6, own), drawn(1, 6, other)
    steps = torch.optim.SGD(method.parameters(), lr=0.05)
    before = loss_of(method, progress(), s, t).item()
    for _ in range(50):
        steps.zero_grad()
        loss_of(method, progress(), s, t).backward()
        steps.step()
    assert loss_of(method, progress(), s, t).item() < before / 10


def test_gradient_is_that_of_finite_differences(pair, progress):
    method = method_of(pair, width=8, temperature=0.5)
    own, other = widths(method)
    s, t = torch.from_numpy(drawn(0, 3, own)).requires_grad_(), drawn(1, 3, other)
    assert torch.autograd.gradcheck(lambda x: loss_of(method, progress(), x, t), (s,))


def test_images_of_one_class_are_negatives_too_so_labels_are_not_needed():
    assert not Contrast.needs_labels
