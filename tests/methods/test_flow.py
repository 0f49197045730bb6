"""Flow against loops in NumPy, maps of other shapes, and the bugs of published code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.flow import Flow, gram_matrix
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


def drawn(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def matrices(one, other):
    """[B, C1, C2], position by position."""
    batch, height, width = len(one), one.shape[2], one.shape[3]
    found = np.zeros((batch, one.shape[1], other.shape[1]))
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                found[b] += np.outer(one[b, :, y, x], other[b, :, y, x])
    return found / (height * width)


@pytest.fixture
def method(build):
    """Between networks of one family, whose stages are equally wide: no connector."""

    def built(student="resnet8", teachers=("resnet14",), **settings):
        networks = [build(name, seed=i).eval() for i, name in enumerate(teachers)]
        own = build(student, seed=9).eval()
        return Flow(
            Flow.Config(**settings), BuildContext(own, networks, 10, 200, torch.rand(4, 1, 8, 8))
        )

    return built


def said(taps, maps):
    features = zip(taps, map(torch.as_tensor, maps), strict=True)
    return Output(torch.zeros(len(maps[0]), 10), dict(features))


def loss_of(method, here, student, *teachers):
    heard = [said(method.teacher_taps(i), maps) for i, maps in enumerate(teachers)]
    size = len(student[0])
    batch = Batch(torch.zeros(size, 1, 8, 8), torch.zeros(size).long(), torch.arange(size))
    return method(said(method.student_taps(), student), heard, batch, here)


def maps(seed, batch=3, channels=(2, 3, 4), sizes=((4, 4), (4, 4), (4, 4))):
    return [drawn(seed + i, batch, c, *s) for i, (c, s) in enumerate(zip(channels, sizes))]  # noqa: B905


def test_a_gram_matrix_is_the_mean_of_products_over_positions():
    one, other = drawn(0, 3, 2, 4, 2), drawn(1, 3, 5, 4, 2)
    found = gram_matrix(torch.from_numpy(one), torch.from_numpy(other))
    np.testing.assert_allclose(found, matrices(one, other), rtol=1e-12)


def test_the_larger_map_is_averaged_down_whichever_it_is():
    """And by height and width each: public code takes the height for both."""
    one, other = drawn(0, 3, 2, 4, 6), drawn(1, 3, 5, 2, 3)
    small = one.reshape(3, 2, 2, 2, 3, 2).mean(axis=(3, 5))
    wanted = matrices(small, other)
    one, other = torch.from_numpy(one), torch.from_numpy(other)
    np.testing.assert_allclose(gram_matrix(one, other), wanted, rtol=1e-12)
    np.testing.assert_allclose(gram_matrix(other, one), wanted.transpose(0, 2, 1), rtol=1e-12)


def test_is_the_formula_between_consecutive_stages(method, progress):
    s, t = maps(0), maps(10)
    between = zip(s, s[1:], t, t[1:])  # noqa: B905
    wanted = sum(np.mean((matrices(a, b) - matrices(c, d)) ** 2) for a, b, c, d in between)
    found = loss_of(method(), progress(), s, t)
    assert found.item() == pytest.approx(wanted, rel=1e-10)


def test_constant_maps_in_closed_form(method, progress):
    """Maps of a everywhere have Gram matrices of a^2 everywhere: 2 (4 - 1)^2 over two pairs."""
    s = [np.full((3, 2, 4, 4), 2.0)] * 3
    t = [np.full((3, 2, 4, 4), 1.0)] * 3
    assert loss_of(method(), progress(), s, t).item() == pytest.approx(2 * 9, rel=1e-12)


def test_where_things_are_does_not_matter_as_long_as_they_move_together(method, progress):
    s, t = maps(0), maps(10)
    shuffled = [x[:, :, ::-1][:, :, :, [2, 0, 3, 1]].copy() for x in s]
    expected = loss_of(method(), progress(), s, t).item()
    assert loss_of(method(), progress(), shuffled, t).item() == pytest.approx(expected, rel=1e-10)
    assert loss_of(method(), progress(), shuffled, s).item() == pytest.approx(0.0, abs=1e-12)


def test_both_maps_with_the_other_sign_flow_alike(method, progress):
    s = maps(0)
    assert loss_of(method(), progress(), [-x for x in s], s).item() == 0.0


def test_maps_of_another_resolution_are_compared_through_their_channels(method, progress):
    """The teacher sees more positions; means over them stay comparable."""
    s = [np.ones((3, 2, 2, 2))] * 3
    t = [np.ones((3, 2, 8, 8))] * 3
    assert loss_of(method(), progress(), s, t).item() == 0.0


def test_gradient_is_that_of_finite_differences(method, progress):
    s = [torch.from_numpy(x).requires_grad_() for x in maps(0, batch=2, channels=(1, 2, 1))]
    t, flow = maps(10, batch=2, channels=(1, 2, 1)), method()
    assert torch.autograd.gradcheck(lambda *x: loss_of(flow, progress(), x, t), s)


def test_several_teachers_are_averaged(method, progress):
    s, one, other = maps(0), maps(10), maps(20)
    each = [loss_of(method(), progress(), s, t).item() for t in (one, other)]
    both = method(teachers=("resnet14", "resnet8"))
    assert loss_of(both, progress(), s, one, other).item() == pytest.approx(np.mean(each))


def test_other_channels_are_mapped_linearly_and_that_is_trained_along(pair, progress):
    """The paper, and public code, can only compare networks of equal widths."""
    flow = Flow(Flow.Config(at=(("conv1", "conv1"), ("conv2", "conv4"))), pair()).double()
    (places,) = flow.pairs
    s, t = (
        [drawn(seed + i, 3, shape[0], 4, 4) for i, shape in enumerate(shapes)]
        for seed, shapes in (
            (0, [found.student_shape for found in places]),
            (10, [found.teacher_shape for found in places]),
        )
    )
    loss = loss_of(flow, progress(), s, t)
    loss.backward()
    trained = list(flow.parameters())
    assert len(trained) == sum(a.shape[1] != b.shape[1] for a, b in zip(s, t, strict=True)) > 0
    assert all(p.grad.abs().sum() > 0 for p in trained)
    seen = []
    for x, connector in zip(s, flow.connectors[0], strict=True):
        if isinstance(connector, nn.Conv2d):
            x = np.einsum("oi,bihw->bohw", connector.weight.detach().numpy()[:, :, 0, 0], x)
        seen.append(x)
    wanted = np.mean((matrices(*seen) - matrices(*t)) ** 2)
    assert loss.item() == pytest.approx(wanted, rel=1e-9)


def test_one_place_has_no_flow(pair):
    with pytest.raises(ConfigError, match=r"at: .* needs 2 or more, found 1; name blocks"):
        Flow(Flow.Config(at="last"), pair())
