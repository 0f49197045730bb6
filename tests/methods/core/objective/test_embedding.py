"""Embeddings and their geometry, above all where it is degenerate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.objective.embedding import (
    block_before_head,
    embedding_width,
    global_average,
    pairwise_distances,
    safe_divide,
    unit_vectors,
)
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).normal(size=shape))


def test_the_last_block_before_the_head_is_read(build):
    network = build("resnet14").eval()
    assert block_before_head(network) == "stage3_2"
    assert embedding_width(network, torch.rand(2, 1, 8, 8)) == 64


def test_a_network_that_is_only_a_head_is_refused():
    with pytest.raises(ConfigError, match="one block only \\('head'\\)"):
        block_before_head(Network({"head": nn.Flatten()}))


def test_pooling_is_a_mean_over_positions_and_leaves_vectors_alone():
    maps = drawn(3, 5, 4, 2)
    np.testing.assert_allclose(global_average(maps), maps.numpy().mean(axis=(2, 3)))
    assert global_average(maps[:, :, 0, 0]).equal(maps[:, :, 0, 0])


def test_distances_are_euclidean():
    x = drawn(6, 3)
    wanted = [[np.linalg.norm(a - b) for b in x.numpy()] for a in x.numpy()]
    np.testing.assert_allclose(pairwise_distances(x), wanted, atol=1e-14)


def test_equal_rows_far_from_the_origin_lie_at_distance_0_in_float32():
    """|a|^2 + |b|^2 - 2ab, as public code computes it, leaves them apart."""
    x = (drawn(4, 64).float() + 1000.0)[[0, 0, 1, 2, 3]].requires_grad_()
    found = pairwise_distances(x)
    assert found[0, 1] == 0
    exact = pairwise_distances(x.double())
    np.testing.assert_allclose(found.detach(), exact.detach(), rtol=1e-4)
    found.sum().backward()
    assert x.grad.isfinite().all()


def test_unit_vectors_have_length_1_and_their_gradient_is_right():
    x = drawn(4, 3).requires_grad_()
    np.testing.assert_allclose(unit_vectors(x).norm(dim=1).detach(), np.ones(4))
    assert torch.autograd.gradcheck(unit_vectors, (x,))


@pytest.mark.parametrize("length", [0.0, 1e-30])
def test_a_vector_without_direction_becomes_0_and_gets_no_gradient(length):
    x = torch.full((2, 3), length).requires_grad_()
    (unit_vectors(x) * torch.arange(3.0)).sum().backward()
    assert not unit_vectors(x).any()
    assert not x.grad.any()


def test_a_ratio_to_nothing_is_the_number_itself():
    x = drawn(3)
    assert safe_divide(x, torch.tensor(0.0)).equal(x)
    assert safe_divide(x, torch.tensor(2.0)).equal(x / 2)
