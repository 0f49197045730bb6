"""Evaluation against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.training.evaluation import calibration_error, evaluate
from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.spaces.config.problems import ConfigError


def logits_of(network, data, split):
    """[N, classes] in float64, and the labels, by the shortest way."""
    parts = list(data.batches(split, batch_size=1000, device="cpu"))
    images, labels = (torch.cat([getattr(p, f) for p in parts]) for f in ("images", "labels"))
    with torch.no_grad():
        return network.double()(images.double(), ()).logits.numpy(), labels.numpy()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def reference_ece(confidence, right, bins=15):
    """Guo et al. 2017, equation 5, bin by bin."""
    total = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            total += inside.sum() / len(confidence) * gap
    return total


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_all_figures(digits, build, split):
    data = digits()
    student, teacher = build("cnn2", seed=1).eval(), build("resnet8", seed=2).eval()
    with torch.no_grad():  # spread the answers, so that confidences fill several bins
        for network in (student, teacher):
            last = list(network.parameters())[-2]
            last.mul_(20)
    found = evaluate(student, data, split, device="cpu", teachers=[FrozenTeacher(teacher)])
    z, labels = logits_of(student, data, split)
    other, _ = logits_of(teacher, data, split)
    q = softmax(z)
    right = z.argmax(1) == labels
    expected = {
        "accuracy": right.mean(),
        "nll": -np.log(q[np.arange(len(labels)), labels]).mean(),
        "ece": reference_ece(q.max(1), right),
        "agreement": (z.argmax(1) == other.argmax(1)).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-4)


def test_several_teachers_agree_by_their_mean_probability(digits, build):
    data = digits()
    student, *taught = (build("cnn2", seed=i).eval() for i in range(3))
    frozen = [FrozenTeacher(network) for network in taught]
    found = evaluate(student, data, "test", device="cpu", teachers=frozen)
    mean = sum(softmax(logits_of(network, data, "test")[0]) for network in taught)
    z, _ = logits_of(student, data, "test")
    assert found["agreement"] == pytest.approx((z.argmax(1) == mean.argmax(1)).mean(), abs=0.01)


def test_the_size_of_batches_changes_nothing(digits, build):
    data, network = digits(), build("cnn2").eval()
    one, other = (
        evaluate(network, data, "test", device="cpu", batch_size=size) for size in (7, 359)
    )
    assert one == pytest.approx(other, rel=1e-5)


def test_a_network_agrees_with_itself_and_keeps_its_mode(digits, build):
    data, network = digits(), build("resnet8").train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = evaluate(network, data, "test", device="cpu", teachers=[FrozenTeacher(network)])
    assert found["agreement"] == 1.0
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_calibration_error_worked_by_hand():
    """Bins (0.6, 0.667] and (0.933, 1]: gaps |1/2 - 0.64| and |1 - 0.97|."""
    confidence = torch.tensor([0.62, 0.66, 0.96, 0.98])
    right = torch.tensor([True, False, True, True])
    assert calibration_error(confidence, right) == pytest.approx((0.14 + 0.03) / 2, abs=1e-6)


def test_calibration_bins_are_closed_above():
    edge = torch.tensor([1 / 15, 2 / 15], dtype=torch.float64)
    right = torch.tensor([True, False])
    expected = (14 / 15 + 2 / 15) / 2
    assert calibration_error(edge, right) == pytest.approx(expected)
    assert calibration_error(torch.ones(3), torch.ones(3).bool()) == 0.0


def test_an_empty_split_is_said(digits, build):
    with pytest.raises(ConfigError, match="validation"):
        evaluate(build("cnn2"), digits(validation=0.0), "validation", device="cpu")
