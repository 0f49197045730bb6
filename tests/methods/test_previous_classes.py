"""What a network knew of the old classes, kept while new ones are learnt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.previous_classes import PreviousClasses
from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output

OLD = (0, 3, 4)


def logits(seed, classes=10):
    return torch.tensor(np.random.RandomState(seed).normal(size=(6, classes)) * 3)


def loss_of(pair, at, student, teachers, method=PreviousClasses, **settings):
    module = method(method.Config(**settings), pair(teachers=len(teachers)))
    batch = Batch(torch.zeros(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64), torch.arange(6))
    return module(Output(student, {}), [Output(z, {}) for z in teachers], batch, at)


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_is_the_divergence_over_the_old_classes(pair, progress, t):
    s, z = logits(0), logits(1)
    p, q = (softmax(x.numpy()[:, OLD] / t) for x in (z, s))
    wanted = t * t * np.sum(p * np.log(p / q), axis=1).mean()
    found = loss_of(pair, progress(), s, [z], classes=OLD, temperature=t)
    assert found.item() == pytest.approx(wanted)


def test_new_classes_are_left_alone_on_both_sides(pair, progress):
    s, z = logits(0).requires_grad_(True), logits(1)
    found = loss_of(pair, progress(), s, [z], classes=OLD)
    other = z.clone()
    other[:, [1, 2, 5]] = 100.0
    assert loss_of(pair, progress(), s, [other], classes=OLD).item() == found.item()
    found.backward()
    new = [c for c in range(10) if c not in OLD]
    assert (s.grad[:, new] == 0).all()
    assert (s.grad[:, OLD] != 0).any()


def test_all_classes_are_soft_targets(pair, progress):
    s, z, y = logits(0), logits(1), logits(2)
    found = loss_of(pair, progress(), s, [z, y], temperature=3.0)
    wanted = loss_of(pair, progress(), s, [z, y], SoftTargets, temperature=3.0)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("classes", [(3,), (0, 10), (-1, 2), (1, 1), ()])
def test_classes_that_are_none_are_refused(pair, classes):
    with pytest.raises(ConfigError, match="needs two or more of 0 to 9, each once") as caught:
        Objective.parse({"previous_classes": {"classes": list(classes)}}).build(pair())
    assert caught.value.problems[0].path == "previous_classes.classes"
