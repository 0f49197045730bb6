"""Hints against their formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.hints import Hints
from stillhouse.spaces.modules.network import Network, Output

BATCH = Batch(torch.zeros(3, 1, 8, 8), torch.zeros(3).long(), torch.arange(3))


def maps(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def loss_of(method, at, student, teacher):
    """Of the last pair of the two networks of the tests: 16 and 32 channels."""
    mine, theirs = (torch.from_numpy(x) for x in (student, teacher))
    logits = torch.zeros(3, 10)
    return method(
        Output(logits, {"conv2": mine}), [Output(logits, {"conv4": theirs})], BATCH, at
    ).item()


def test_is_the_formula_of_the_paper_through_a_linear_regressor(pair, progress):
    method = Hints(Hints.Config(at="last"), pair()).double()
    regressor = method.connectors[0][0]
    assert isinstance(regressor, nn.Conv2d)
    weight, bias = (p.detach().numpy() for p in (regressor.weight, regressor.bias))
    s, t = maps(0, 3, 16, 2, 2), maps(1, 3, 32, 2, 2)
    mapped = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], s) + bias[None, :, None, None]
    found = loss_of(method, progress(), s, t)
    assert found == pytest.approx(np.mean((mapped - t) ** 2), rel=1e-10)


def test_the_larger_map_is_averaged_down(pair, progress):
    method = Hints(Hints.Config(at="last"), pair())
    method.connectors[0][0] = nn.Identity()
    s, t = maps(0, 3, 5, 4, 6), maps(1, 3, 5, 2, 2)
    small = s.reshape(3, 5, 2, 2, 2, 3).mean(axis=(3, 5))
    assert loss_of(method, progress(), s, t) == pytest.approx(np.mean((small - t) ** 2), rel=1e-10)
    assert loss_of(method, progress(), t, s) == pytest.approx(np.mean((small - t) ** 2), rel=1e-10)


def test_equal_channels_need_no_connector_and_equal_maps_cost_nothing(pair, progress):
    method = Hints(Hints.Config(at=(("conv2", "conv2"),)), pair())
    assert not list(method.parameters())
    method = Hints(Hints.Config(at="last"), pair())
    method.connectors[0][0] = nn.Identity()
    s = maps(0, 3, 16, 2, 2)
    assert loss_of(method, progress(), s, s) == 0.0
    assert loss_of(method, progress(), s, s + 1) == pytest.approx(1.0)


def test_the_hint_lies_in_the_middle(build):
    student, teacher = (build(n, (3, 16, 16)).eval() for n in ("resnet8", "resnet14"))
    method = Hints(
        Hints.Config(), BuildContext(student, [teacher], 10, 10, torch.rand(1, 3, 16, 16))
    )
    assert method.student_taps() == ("stage2_1",)
    assert method.teacher_taps(0) == ("stage2_2",)


def single(channels, size):
    """A network of one map of ``size`` for images of 12 x 12."""
    blocks = {"map": nn.Sequential(nn.AdaptiveAvgPool2d(size), nn.Conv2d(1, channels, 1))}
    blocks["head"] = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 3))
    return Network(blocks).eval()


@pytest.mark.parametrize(
    ("mine", "theirs", "layer", "kernel"),
    [
        ((4, 4), (4, 4), nn.Conv2d, (1, 1)),
        ((8, 8), (4, 4), nn.Conv2d, (3, 3)),
        ((2, 2), (4, 4), nn.ConvTranspose2d, (4, 4)),
        ((5, 6), (3, 6), nn.Conv2d, (3, 1)),
        ((3, 3), (7, 7), nn.Conv2d, (1, 1)),
    ],
)
def test_a_unit_regresses_to_the_teachers_map(progress, mine, theirs, layer, kernel):
    """As FitNet's regressor in public code; there the last case, a larger map by another factor
    than two, is an error."""
    images = torch.rand(3, 1, 12, 12)
    both = BuildContext(single(5, mine), [single(5, theirs)], 3, 10, images)
    method = Hints(Hints.Config(at="last", regressor="unit"), both)
    convolution, norm, relu = method.connectors[0][0]
    assert (type(convolution), convolution.kernel_size) == (layer, kernel)
    assert (type(norm), type(relu)) == (nn.BatchNorm2d, nn.ReLU)
    student, teacher = (n(images, ("map",)) for n in (both.student, both.teachers[0]))
    mapped = method.connectors[0][0](student.features["map"])
    if kernel != (1, 1):
        assert mapped.shape == teacher.features["map"].shape
    loss = method(student, [teacher], Batch(images, BATCH.labels, BATCH.indices), progress())
    assert loss.isfinite()
    loss.backward()
    assert convolution.weight.grad.abs().sum() > 0


def test_the_regressor_is_in_a_key_only_where_it_is_not_linear():
    assert "regressor" not in Hints.Config().identity()
    assert Hints.Config(regressor="unit").identity()["regressor"] == "unit"
