"""All methods that compare relations, at once in one training: they learn, stop and resume."""

from __future__ import annotations

import itertools

import pytest
import torch

from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.methods.core.training.train import Training, train
from tests.support.checkpointers import MemoryCheckpointer

OBJECTIVE = Objective.parse(
    {
        "cross_entropy": {},
        "relations": {"weight": 0.01},
        "similarities": {"weight": 10.0, "at": "stages"},
        "flow": {"weight": 0.1},
        "contrast": {"weight": 0.1},
        "instance_graph": {"weight": 0.1},
        "adversary": {"weight": 0.1, "schedule": {"switch": {"since": 1}}},
    }
)


@pytest.fixture
def start(digits, build):
    """Training of a small student by two teachers of other depths and widths."""
    data = digits(limit=90)
    teachers = [FrozenTeacher(build(name, seed=5)) for name in ("resnet14", "cnn4")]
    training = Training.parse({"epochs": 3, "batch_size": 32, "lr": 0.02})

    def started(seed=0, saves=None):
        student = build("resnet8", seed=seed)
        return student, train(
            student, teachers, OBJECTIVE, data, training, seed=0, device="cpu", checkpointer=saves
        )

    return started


def test_resumed_training_ends_with_the_same_bits_and_leaves_only_a_student(start):
    whole, reports = start()
    curve = list(reports)
    names = {f"train_{name}" for name in OBJECTIVE.terms}
    assert names - {"train_adversary"} <= curve[0].keys()
    assert names <= curve[1].keys()
    saves = MemoryCheckpointer()
    _, first = start(saves=saves)
    assert len(list(itertools.islice(first, 2))) == 2
    first.close()
    resumed, reports = start(1, saves)
    list(reports)
    ended, expected = resumed.state_dict(), whole.state_dict()
    assert ended.keys() == expected.keys()
    assert all(torch.equal(ended[name], value) for name, value in expected.items())


def test_what_relates_examples_comes_nearer_to_the_teachers(start):
    _, reports = start()
    curve = list(reports)
    for name in ("train_contrast", "train_similarities", "train_instance_graph"):
        assert curve[-1][name] < curve[0][name], name
