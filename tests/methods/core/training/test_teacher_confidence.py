"""How sure a teacher is and how it relates classes, against NumPy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stillhouse.methods.core.objective.soft_labels import distillation_loss
from stillhouse.methods.core.training.teacher_confidence import (
    class_similarity_metrics,
    matching_sharpness,
    teacher_confidence,
)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_figures_are_those_of_their_definitions():
    random = np.random.RandomState(3)
    z, labels = 6 * random.normal(size=(200, 5)), random.randint(0, 5, 200)
    z[np.arange(200), labels] += 8
    p = softmax(z)
    true = p[np.arange(200), labels]
    found = teacher_confidence(torch.from_numpy(z), torch.from_numpy(labels), 4.0)
    assert found["confidence"] == pytest.approx(true.mean())
    assert found["softened"] == pytest.approx(softmax(z / 4)[np.arange(200), labels].mean())
    assert found["entropy"] == pytest.approx(-(p * np.log(p)).sum(axis=1).mean())
    assert found["saturated"] == pytest.approx((true > 1 - 1e-4).mean())
    assert 0 < found["saturated"] < 1
    assert found["accuracy"] == pytest.approx((z.argmax(axis=1) == labels).mean())
    others = np.delete(z, labels + 5 * np.arange(200)).reshape(200, 4)
    r = softmax(others)
    wanted = 1 - (-(r * np.log(r)).sum(axis=1)).mean() / math.log(4)
    assert found["relations"] == pytest.approx(wanted)


def test_a_teacher_to_whom_all_wrong_classes_are_alike_relates_none():
    z = torch.zeros(4, 6).scatter(1, torch.arange(4)[:, None], 9.0)
    assert teacher_confidence(z, torch.arange(4), 1.0)["relations"] == pytest.approx(0.0, abs=1e-12)
    assert teacher_confidence(z[:, :2], torch.tensor([0, 1, 0, 1]), 1.0)["relations"] == 0.0


def test_equidistant_classes_are_erased_and_random_directions_are_chance():
    classes = 10
    simplex = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1.0)
    assert class_similarity_metrics(simplex, 64)["erased"] == 1.0
    assert class_similarity_metrics(simplex, 64)["spread"] == pytest.approx(0.0, abs=1e-7)
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(400, 64, generator=generator), dim=1)
    found = class_similarity_metrics(rows @ rows.T, 64)
    assert found["spread"] == pytest.approx(found["chance"], rel=0.02)
    related = torch.eye(10)
    related[:5, :5] = related[5:, 5:] = 0.8
    assert class_similarity_metrics(related.fill_diagonal_(1.0), 64)["erased"] == 0.0


@pytest.mark.parametrize("sure", [0.3, 0.7, 0.99])
def test_the_sharpness_makes_labels_as_sure_as_the_teacher(sure):
    rows = torch.nn.functional.normalize(torch.randn(10, 20, dtype=torch.float64), dim=1)
    cosines = rows @ rows.T
    sharpness = matching_sharpness(cosines, sure)
    found = (cosines / sharpness).softmax(dim=1).diagonal().mean().item()
    assert found == pytest.approx(sure, abs=0.01)


@pytest.mark.parametrize(("share", "temperature"), [(0.3, 1.0), (0.9, 4.0)])
def test_gradient_ratio_of_the_true_logit_by_finite_differences(share, temperature):
    """Tang et al. 2020: (1 - lam) + lam / T * (p_t - q_t at T) / (1 - q_t) against CE alone."""
    random = np.random.RandomState(5)
    z, teacher = random.normal(size=(1, 7)), 3 * random.normal(size=(1, 7))
    true, step = 2, 1e-6

    def loss(student):
        logits = torch.from_numpy(student)
        labels = (torch.from_numpy(teacher) / temperature).log_softmax(dim=1)
        term = distillation_loss(logits, [labels], temperature) / temperature**2
        hard = torch.nn.functional.cross_entropy(logits, torch.tensor([true]))
        return (1 - share) * hard.item() + share * term.item()

    def slope(of):
        up, down = z.copy(), z.copy()
        up[0, true] += step
        down[0, true] -= step
        return (of(up) - of(down)) / (2 * step)

    q, p = softmax(z)[0, true], softmax(teacher / temperature)[0, true]
    soft = softmax(z / temperature)[0, true]
    wanted = (1 - share) + share / temperature * (p - soft) / (1 - q)
    alone = slope(lambda student: -np.log(softmax(student)[0, true]))
    assert slope(loss) / alone == pytest.approx(wanted, rel=1e-6)
