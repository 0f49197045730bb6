"""Cross entropy against its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.cross_entropy import CrossEntropy
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output


def loss_of(pair, progress, logits, labels, **settings):
    method = CrossEntropy(CrossEntropy.Config(**settings), pair(teachers=0))
    batch = Batch(torch.zeros(len(labels), 1, 8, 8), labels, torch.arange(len(labels)))
    return method(Output(logits, {}), [], batch, progress())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_is_the_formula_of_the_paper(pair, progress, smoothing, classes):
    random = np.random.RandomState(0)
    z = random.normal(size=(7, classes)) * 3
    labels = random.randint(0, classes, 7)
    log_q = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    wanted = np.full((7, classes), smoothing / classes)
    wanted[np.arange(7), labels] += 1 - smoothing
    expected = -(wanted * log_q).sum(axis=1).mean()
    logits, labels = torch.from_numpy(z), torch.from_numpy(labels)
    found = loss_of(pair, progress, logits, labels, label_smoothing=smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_the_difference_of_probabilities(pair, progress):
    z = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 1, 1, 2])
    loss_of(pair, progress, z, labels).backward()
    expected = (z.detach().softmax(1) - torch.eye(4, dtype=torch.float64)[labels]) / 5
    torch.testing.assert_close(z.grad, expected)


def test_uniform_logits_cost_the_logarithm_of_the_classes(pair, progress):
    found = loss_of(pair, progress, torch.zeros(3, 10), torch.tensor([0, 5, 9]))
    assert found.item() == pytest.approx(np.log(10), rel=1e-6)


def test_smoothing_is_a_share():
    with pytest.raises(ConfigError, match=r"label_smoothing: .* less than 1"):
        CrossEntropy.Config.parse({"label_smoothing": 1.0})
