"""Relations against loops in NumPy, closed forms of triangles, and the bugs of published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.relations import Relations
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output

EQUILATERAL = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, np.sqrt(3.0)]])
RIGHT = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])


def drawn(seed, batch=5, width=4, scale=1.0):
    return np.random.RandomState(seed).normal(size=(batch, width)) * scale


def huber(x):
    return 0.5 * x * x if abs(x) <= 1 else abs(x) - 0.5


def distance_term(s, t):
    def relative(e):
        d = np.array([[np.linalg.norm(a - b) for b in e] for a in e])
        return d / np.mean([x for x in d.flat if x > 0])

    return np.mean([huber(a - b) for a, b in zip(relative(s).flat, relative(t).flat, strict=True)])


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths > 0 else 0.0


def angle_term(s, t):
    count = range(len(s))

    def all_cosines(e):
        return [cosine(e[i] - e[j], e[k] - e[j]) for i in count for j in count for k in count]

    return np.mean([huber(a - b) for a, b in zip(all_cosines(s), all_cosines(t), strict=True)])


def loss_of(pair, at, student, *teachers, **settings):
    method = Relations(Relations.Config(**settings), pair(teachers=len(teachers)))
    size = len(student)

    def says(e, taps):
        return Output(torch.zeros(size, 10), {tap: torch.as_tensor(e) for tap in taps})

    said = [says(e, method.teacher_taps(i)) for i, e in enumerate(teachers)]
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return method(says(student, method.student_taps()), said, batch, at)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_is_the_formula_of_the_paper(pair, progress, scale):
    s, t = drawn(0, width=3, scale=scale), drawn(1, width=7)
    s[0] *= 20  # far enough for the linear part of the Huber loss
    found = loss_of(pair, progress(), s, t)
    wanted = 25 * distance_term(s, t) + 50 * angle_term(s, t)
    assert found.item() == pytest.approx(wanted, rel=1e-9)


def test_each_term_alone(pair, progress):
    s, t = drawn(0), drawn(1)
    one = loss_of(pair, progress(), s, t, distance=2.0, angle=0.0)
    assert one.item() == pytest.approx(2 * distance_term(s, t), rel=1e-9)
    other = loss_of(pair, progress(), s, t, distance=0.0, angle=3.0)
    assert other.item() == pytest.approx(3 * angle_term(s, t), rel=1e-9)


def test_triangles_in_closed_form(pair, progress):
    """Sides 3, 4, 5 against 1, 1, 1 at mean 1; cosines 0, 3/5, 4/5 against 1/2 thrice."""
    found = loss_of(pair, progress(), EQUILATERAL, RIGHT, distance=1.0, angle=0.0)
    assert found.item() == pytest.approx((1 / 16 + 1 / 16) / 9, rel=1e-9)
    found = loss_of(pair, progress(), EQUILATERAL, RIGHT, distance=0.0, angle=1.0)
    assert found.item() == pytest.approx((0.25 + 0.01 + 0.09) / 27, rel=1e-9)


def test_turning_shifting_and_scaling_either_network_changes_nothing(pair, progress):
    s, t = drawn(0), drawn(1)
    rotation, _ = np.linalg.qr(drawn(2, batch=4))
    moved = 7.0 * s @ rotation + 3.0
    expected = loss_of(pair, progress(), s, t).item()
    assert loss_of(pair, progress(), moved, t).item() == pytest.approx(expected, rel=1e-9)
    assert loss_of(pair, progress(), t, moved).item() == pytest.approx(expected, rel=1e-9)
    assert loss_of(pair, progress(), s, moved).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 2])
def test_one_example_or_two_have_no_shape_to_learn(pair, progress, batch):
    """The mean over positive distances of public code is NaN for one example."""
    s = torch.from_numpy(drawn(0, batch)).requires_grad_()
    loss = loss_of(pair, progress(), s, drawn(1, batch))
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(s.grad, np.zeros((batch, 4)), atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_collapsed_student_costs_something_and_gives_no_nan(pair, progress, dtype):
    s = torch.ones(5, 4, dtype=dtype, requires_grad=True)
    loss = loss_of(pair, progress(), s, torch.from_numpy(drawn(1)).to(dtype))
    loss.backward()
    assert loss.item() > 0
    assert s.grad.isfinite().all()


def test_equal_examples_stay_out_of_the_mean_distance(pair, progress):
    """Clamping squared distances before the root, as public code does, counts them as 1e-6."""
    s = torch.from_numpy(drawn(0)[[0, 0, 1, 2, 3]]).requires_grad_()
    t = drawn(1)
    loss = loss_of(pair, progress(), s, t)
    loss.backward()
    e = s.detach().numpy()
    wanted = 25 * distance_term(e, t) + 50 * angle_term(e, t)
    assert loss.item() == pytest.approx(wanted, rel=1e-9)
    assert s.grad.isfinite().all()
    assert s.grad.abs().max() < 1e3


def test_gradient_is_that_of_finite_differences(pair, progress):
    s, t = torch.from_numpy(drawn(0)).requires_grad_(), drawn(1)
    assert torch.autograd.gradcheck(lambda x: loss_of(pair, progress(), x, t), (s,))


def test_maps_are_averaged_over_positions_first(pair, progress):
    maps = np.random.RandomState(0).normal(size=(5, 4, 3, 2))
    t = drawn(1)
    flat = loss_of(pair, progress(), maps.mean(axis=(2, 3)), t).item()
    assert loss_of(pair, progress(), maps, t).item() == pytest.approx(flat, rel=1e-12)


def test_several_teachers_are_averaged(pair, progress):
    s, one, other = drawn(0), drawn(1), drawn(2, width=6)
    each = [loss_of(pair, progress(), s, t).item() for t in (one, other)]
    assert loss_of(pair, progress(), s, one, other).item() == pytest.approx(np.mean(each))


def test_something_must_be_compared(pair):
    with pytest.raises(ConfigError, match="distance and angle are both 0"):
        Relations(Relations.Config(distance=0.0, angle=0.0), pair())
