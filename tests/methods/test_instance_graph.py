"""The instance graph against loops in NumPy, closed forms, and where it is degenerate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.instance_graph import InstanceGraph
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


def drawn(seed, batch=5, width=4):
    return np.random.RandomState(seed).normal(size=(batch, width))


def said(seed, batch=5, width=4):
    """Logits and embeddings of one network."""
    return drawn(seed, batch, 10), drawn(seed + 100, batch, width)


def edges(e):
    squared = np.array([[sum((a - b) ** 2) for b in e] for a in e])
    return squared / squared.max()


def edge_term(s, t):
    return np.mean((edges(s) - edges(t)) ** 2)


def loss_of(pair, here, student, *teachers, **settings):
    method = InstanceGraph(InstanceGraph.Config(**settings), pair(teachers=len(teachers)))
    size = len(student[0])

    def says(network, taps):
        logits, e = (torch.as_tensor(x) for x in network)
        return Output(logits, dict.fromkeys(taps, e))

    heard = [says(teacher, method.teacher_taps(i)) for i, teacher in enumerate(teachers)]
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return method(says(student, method.student_taps()), heard, batch, here)


def test_is_vertices_plus_edges(pair, progress):
    s, t = said(0), said(1, width=7)
    wanted = 0.1 * np.mean((s[0] - t[0]) ** 2) + 5 * edge_term(s[1], t[1])
    assert loss_of(pair, progress(), s, t).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(("vertices", "edge"), [(2.0, 0.0), (0.0, 3.0)])
def test_each_term_alone(pair, progress, vertices, edge):
    s, t = said(0), said(1)
    wanted = vertices * np.mean((s[0] - t[0]) ** 2) + edge * edge_term(s[1], t[1])
    found = loss_of(pair, progress(), s, t, vertices=vertices, edges=edge).item()
    assert found == pytest.approx(wanted, rel=1e-10)


def test_three_points_in_closed_form(pair, progress):
    """At 0, 1, 2 the squared distances are 1, 1, 4; at the corners of a triangle 1, 1, 1."""
    line = np.zeros((3, 10)), np.array([[0.0], [1.0], [2.0]])
    corners = np.zeros((3, 10)), np.eye(3)
    found = loss_of(pair, progress(), line, corners, edges=1.0).item()
    assert found == pytest.approx(2 * 2 * 0.75**2 / 9, rel=1e-12)


def test_turning_shifting_and_scaling_embeddings_changes_nothing(pair, progress):
    s, t = said(0), said(1)
    rotation, _ = np.linalg.qr(drawn(2, 4))
    moved = s[0], 7.0 * s[1] @ rotation + 3.0
    expected = loss_of(pair, progress(), s, t).item()
    assert loss_of(pair, progress(), moved, t).item() == pytest.approx(expected, rel=1e-9)
    assert loss_of(pair, progress(), moved, s).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("batch", [1, 5])
def test_a_batch_without_differences_has_no_edges(pair, progress, batch):
    """Dividing by the largest distance, which is 0, is NaN in code that does not look."""
    e = torch.ones(batch, 4, dtype=torch.float64, requires_grad=True)
    z = drawn(0, batch, 10)
    loss = loss_of(pair, progress(), (z, e), (z, drawn(1, 1).repeat(batch, 0)))
    loss.backward()
    assert loss.item() == 0.0
    assert not e.grad.any()


def test_equal_examples_have_no_distance_and_give_no_nan(pair, progress):
    e = torch.from_numpy(drawn(0)[[0, 0, 1, 2, 3]]).requires_grad_()
    z, t = drawn(2, 5, 10), said(1)
    loss = loss_of(pair, progress(), (z, e), t, vertices=0.0)
    loss.backward()
    wanted = 5 * edge_term(e.detach().numpy(), t[1])
    assert loss.item() == pytest.approx(wanted, rel=1e-10)
    assert e.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences(pair, progress):
    s, t = said(0), said(1)
    z, e = (torch.from_numpy(x).requires_grad_() for x in s)
    assert torch.autograd.gradcheck(lambda *x: loss_of(pair, progress(), x, t), (z, e))


def test_several_teachers_are_averaged(pair, progress):
    s, one, other = said(0), said(1), said(2)
    each = [loss_of(pair, progress(), s, t).item() for t in (one, other)]
    assert loss_of(pair, progress(), s, one, other).item() == pytest.approx(np.mean(each))


def test_something_must_be_compared(pair):
    with pytest.raises(ConfigError, match="vertices and edges are both 0"):
        InstanceGraph(InstanceGraph.Config(vertices=0.0, edges=0.0), pair())


def test_student_and_teachers_must_know_the_same_classes(pair):
    uneven = replace(pair(), teachers=pair(classes=7).teachers)
    with pytest.raises(ConfigError, match="student has 10 and teacher 1 has 7"):
        InstanceGraph(InstanceGraph.Config(), uneven)
