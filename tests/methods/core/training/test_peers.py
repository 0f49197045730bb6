"""Peers: deep mutual learning against its definition in NumPy, and that it can be interrupted."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.methods.core.training.train import train
from stillhouse.spaces.modules.network import Network
from tests.support.checkpointers import MemoryCheckpointer

MUTUAL = Objective.parse({"cross_entropy": {}, "soft_targets": {"temperature": 1.0}})
TIMES = ("seconds", "images_per_second")
# No momentum, decay or schedule: one step is the gradient times the learning rate.
PLAIN = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "constant"}


def linear(seed):
    """One linear layer without bias: its gradient has a closed form."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network({"head": nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))})


def run(student, peers, data, teachers=(), objective=MUTUAL, saves=None, **settings):
    training = Training.parse({"epochs": 1, "batch_size": 1000, "lr": 0.5, **settings})
    return train(
        student,
        teachers,
        objective,
        data,
        training,
        seed=0,
        device="cpu",
        checkpointer=saves,
        peers=peers,
    )


def weight(network):
    return network.state_dict()["blocks.head.1.weight"].double().numpy().copy()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def untimed(reports):
    return [{k: v for k, v in report.items() if k not in TIMES} for report in reports]


@pytest.mark.parametrize("peers", [1, 2, 3])
def test_one_step_is_that_of_deep_mutual_learning(digits, peers):
    """All at once: everyone learns from what the others said before the step."""
    data = digits()
    networks = [linear(seed) for seed in range(peers + 1)]
    before = [weight(network) for network in networks]
    (report,) = run(networks[0], networks[1:], data, **PLAIN)
    batch = next(data.train_batches(batch_size=1000, epoch=0, seed=0, device="cpu"))
    x = batch.images.flatten(1).double().numpy()
    y = np.eye(10)[batch.labels.numpy()]
    said = [softmax(x @ w.T) for w in before]
    for i, (w, p) in enumerate(zip(before, said, strict=True)):
        others = [q for j, q in enumerate(said) if j != i]
        towards = y - p + np.mean([q - p for q in others], axis=0)
        expected = w + 0.5 * towards.T @ x / len(x)
        np.testing.assert_allclose(weight(networks[i]), expected, atol=2e-6)
        divergence = np.mean([(q * np.log(q / p)).sum(axis=1).mean() for q in others])
        loss = -(y * np.log(p)).sum(axis=1).mean() + divergence
        assert report[f"train_peer{i}_loss" if i else "train_loss"] == pytest.approx(loss, rel=1e-5)


def test_peers_that_say_the_same_teach_each_other_nothing(digits):
    one, other, alone = (linear(0) for _ in range(3))
    list(run(one, [other], digits(), **PLAIN))
    labels = Objective.parse({"cross_entropy": {}})
    list(run(alone, [], digits(), objective=labels, **PLAIN))
    np.testing.assert_allclose(weight(one), weight(alone), atol=1e-7)
    np.testing.assert_array_equal(weight(one), weight(other))


def test_peers_of_other_sizes_and_a_teacher_learn_by_features_too(digits, build):
    """Each pair of networks has connectors of its own, and the teacher stays as it was."""
    objective = Objective.parse(
        {"cross_entropy": {}, "soft_targets": {}, "channel_attention": {}, "relations": {}}
    )
    teacher = build("resnet8", seed=5)
    before = copy.deepcopy(teacher.state_dict())
    reports = list(
        run(
            build("cnn2"),
            [build("cnn4", seed=1), build("resnet8", seed=2)],
            digits(),
            [FrozenTeacher(teacher)],
            objective,
            epochs=2,
            batch_size=64,
            lr=0.05,
        )
    )
    for report in reports:
        for peer in (1, 2):
            assert {f"peer{peer}_val_{name}" for name in ("accuracy", "nll", "ece")} <= set(report)
            assert f"train_peer{peer}_loss" in report
        assert "peer3_val_accuracy" not in report
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "keep": "best"}])
def test_resumes_with_the_same_bits(digits, build, settings):
    objective = Objective.parse({"cross_entropy": {}, "soft_targets": {}, "channel_attention": {}})
    told = {"epochs": 3, "batch_size": 32, "lr": 0.05, **settings}

    def networks():
        return build("cnn2"), [build("cnn4", seed=1), build("cnn2", seed=2)]

    student, peers = networks()
    whole = list(run(student, peers, digits(), objective=objective, **told))
    memory = MemoryCheckpointer()
    first, others = networks()
    list(itertools.islice(run(first, others, digits(), (), objective, memory, **told), 2))
    again, others = networks()
    resumed = list(run(again, others, digits(), (), objective, memory, **told))
    assert untimed(resumed) == untimed(whole)
    for one, other in zip([student, *peers], [again, *others], strict=True):
        there = other.state_dict()
        assert all(torch.equal(value, there[name]) for name, value in one.state_dict().items())


def test_a_student_whose_peers_are_none_is_trained_as_ever(digits, build):
    """Peers are no part of the random choices of the student's own objective."""
    objective = Objective.parse({"cross_entropy": {}})
    alone, beside = build("cnn2"), build("cnn2")
    list(run(alone, [], digits(), objective=objective, batch_size=32))
    list(run(beside, [build("cnn4")], digits(), objective=objective, batch_size=32))
    there = beside.state_dict()
    assert all(torch.equal(value, there[name]) for name, value in alone.state_dict().items())
