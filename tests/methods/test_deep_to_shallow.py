"""Deep to shallow against its formula in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training, train
from stillhouse.methods.deep_to_shallow import DeepToShallow
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network

SHAPE = (1, 8, 8)
IMAGES = torch.rand((6, *SHAPE), generator=torch.Generator().manual_seed(1))
BATCH = Batch(IMAGES, torch.arange(6), torch.arange(6))


@pytest.fixture
def made(build):
    def of(network="cnn4", **settings):
        student = build(network).eval()
        pair = BuildContext(student, [], 10, 200, IMAGES)
        return student, DeepToShallow(DeepToShallow.Config.parse(settings), pair).eval()

    return of


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("alpha", "t"), [(0.3, 3.0), (1.0, 4.0), (0.0, 2.0)])
def test_the_loss_is_its_definition(made, alpha, t):
    student, method = (module.double() for module in made(alpha=alpha, temperature=t))
    said = student(IMAGES.double(), method.student_taps())
    found = method(said, [], BATCH, None).item()
    deep, wanted = said.logits.detach().numpy(), 0.0
    p = log_softmax(deep / t)
    for name, classifier in method.classifiers.items():
        z = classifier(said.features[name]).detach().numpy()
        cross_entropy = -log_softmax(z)[np.arange(6), np.arange(6)].mean()
        kl = (np.exp(p) * (p - log_softmax(z / t))).sum(axis=1).mean()
        wanted += (1 - alpha) * cross_entropy + alpha * t**2 * kl
    assert found == pytest.approx(wanted)


def test_every_stage_but_the_last_has_a_classifier(made):
    student, method = made("cnn4")
    features = student(IMAGES).features
    sizes = [features[name].shape[-1] for name in method.student_taps()]
    assert sizes == sorted(set(sizes), reverse=True)
    assert min(sizes) > 1
    for name, classifier in method.classifiers.items():
        assert classifier(features[name]).shape == (6, 10)


def test_the_deepest_output_teaches_and_does_not_learn(made):
    student, method = made(alpha=1.0)
    said = student(IMAGES, method.student_taps())
    said.logits.retain_grad()
    method(said, [], BATCH, None).backward()
    assert said.logits.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is not None for p in method.classifiers.parameters())


def test_it_needs_a_stage_below_the_last():
    """Maps of one size are one stage, and nothing is shallower than that."""
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    student = Network({"conv": nn.Conv2d(1, 4, 3, padding=1), "head": head}).eval()
    with pytest.raises(ConfigError, match="maps of two sizes or more"):
        DeepToShallow(DeepToShallow.Config(), BuildContext(student, [], 10, 200, IMAGES))


def test_a_student_learns_by_it_alone_and_its_classifiers_are_dropped(build, digits):
    student = build("cnn4")
    names = set(student.state_dict())
    objective = Objective.parse({"cross_entropy": {}, "deep_to_shallow": {}})
    training = Training.parse({"epochs": 10, "batch_size": 32, "lr": 0.02})
    reports = list(train(student, [], objective, digits(limit=500), training, seed=0, device="cpu"))
    # At first the deepest output becomes certain faster than the shallow ones can follow.
    curve = [report["train_deep_to_shallow"] for report in reports]
    assert curve[-1] < max(curve)
    assert reports[-1]["train_cross_entropy"] < reports[0]["train_cross_entropy"]
    assert set(student.state_dict()) == names


def test_without_scaling_soft_targets_weigh_less_by_the_square_of_the_temperature(made):
    """As in the authors' loop: a ninth of the gradient at a temperature of 3."""
    losses = {}
    for scaled in (True, False):
        torch.manual_seed(0)
        student, method = made(alpha=1.0, temperature=3.0, scaled=scaled)
        said = student(IMAGES, method.student_taps())
        losses[scaled] = method(said, [], BATCH, None).item()
    assert losses[True] == pytest.approx(9 * losses[False])
    assert "scaled" not in DeepToShallow.Config().identity()
    assert DeepToShallow.Config(scaled=False).identity()["scaled"] is False
