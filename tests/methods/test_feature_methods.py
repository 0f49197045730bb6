"""What methods that compare maps pair by pair share: teachers, their own parts, any sizes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.objective.taps import FeatureMethod
from stillhouse.methods.core.training.learner import Learner
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network, Output


def _compares_pair_by_pair(name):
    """Not those that use the pairs for something of their own."""
    return METHODS.load(name).forward is FeatureMethod.forward


NAMES = [name for name in METHODS.names() if _compares_pair_by_pair(name)]
TRAINED = ("channel_attention", "factors", "hints", "variational")


def made(name, pair, **settings):
    torch.manual_seed(0)
    method = METHODS.load(name)
    return method(method.Config.parse(settings), pair)


def answers(network, images, taps):
    with torch.no_grad():
        return network(images, taps)


def loss_of(method, pair, at, images):
    student = pair.student(images, method.student_taps())
    teachers = [answers(t, images, method.teacher_taps(i)) for i, t in enumerate(pair.teachers)]
    batch = Batch(images, torch.zeros(len(images)).long(), torch.arange(len(images)))
    return method(student, teachers, batch, at)


def single(channels, stride=1, inputs=1):
    """A network of one map."""
    blocks = {"map": nn.Conv2d(inputs, channels, 3, stride=stride, padding=1)}
    blocks["head"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return Network(blocks).eval()


def test_these_are_the_methods_that_compare_maps():
    assert {"attention", *TRAINED} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_only_paired_blocks_are_tapped(pair, name):
    method = made(name, pair(), at="last")
    assert method.student_taps() == ("conv2",)
    assert method.teacher_taps(0) == ("conv4",)
    stages = made(name, pair(), at="stages")
    assert (stages.student_taps(), stages.teacher_taps(0)) == (
        ("conv1", "conv2"),
        ("conv3", "conv4"),
    )


@pytest.mark.parametrize("name", NAMES)
def test_pairs_are_summed(pair, progress, name):
    images = torch.rand(4, 1, 8, 8)
    both = made(name, pair(), at="stages")
    first, last = (made(name, pair(), at=at) for at in ([["conv1", "conv3"]], "last"))
    first.connectors[0][0].load_state_dict(both.connectors[0][0].state_dict())
    last.connectors[0][0].load_state_dict(both.connectors[0][1].state_dict())
    wanted = sum(loss_of(m, pair(), progress(), images) for m in (first, last))
    found = loss_of(both, pair(), progress(), images)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_teachers_are_averaged_each_with_a_connector_of_its_own(pair, progress, name):
    images, two = torch.rand(4, 1, 8, 8), pair(teachers=2)
    method = made(name, two)
    each = []
    for i, teacher in enumerate(two.teachers):
        alone = replace(two, teachers=[teacher])
        one = made(name, alone)
        one.connectors[0].load_state_dict(method.connectors[i].state_dict())
        each.append(loss_of(one, alone, progress(), images).item())
    found = loss_of(method, two, progress(), images).item()
    assert found == pytest.approx(sum(each) / 2, rel=1e-5)
    mine, theirs = (set(map(id, c.parameters())) for c in method.connectors)
    assert not mine & theirs


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_flows_into_features_of_a_teacher(pair, progress, name):
    method, images = made(name, pair()), torch.rand(4, 1, 8, 8)
    student = pair().student(images, method.student_taps())
    said = answers(pair().teachers[0], images, method.teacher_taps(0))
    said = Output(said.logits, {k: v.clone().requires_grad_() for k, v in said.features.items()})
    batch = Batch(images, torch.zeros(4).long(), torch.arange(4))
    method(student, [said], batch, progress()).backward()
    assert all(value.grad is None for value in said.features.values())


@pytest.mark.parametrize("name", NAMES)
def test_one_image_and_its_copies_cost_the_same(pair, progress, name):
    method, image = made(name, pair()), torch.rand(1, 1, 8, 8)
    one = loss_of(method, pair(), progress(), image).item()
    three = loss_of(method, pair(), progress(), image.repeat(3, 1, 1, 1)).item()
    assert one == pytest.approx(three, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("sizes", [((6, 9), 1, 2), ((9, 6), 2, 1), ((7, 5), 3, 1), ((8, 8), 1, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_maps_of_any_sizes_meet(progress, name, sizes):
    """Published code pools to a square of the teacher's height, which fails on other shapes."""
    (height, width), mine, theirs = sizes
    images = torch.rand(3, 1, height, width)
    pair = BuildContext(single(4, mine), [single(6, theirs)], 3, 10, images)
    loss = loss_of(made(name, pair), pair, progress(), images)
    assert loss.isfinite()
    loss.backward()
    grads = [p.grad for p in pair.student.blocks["map"].parameters()]
    assert all(g.isfinite().all() for g in grads)
    assert sum(g.abs().sum() for g in grads) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_dead_student_has_finite_gradients(pair, progress, name):
    pair = pair()
    for parameter in pair.student.blocks["conv2"].parameters():
        nn.init.zeros_(parameter)
    loss = loss_of(made(name, pair, at="last"), pair, progress(), torch.rand(4, 1, 8, 8))
    assert loss.isfinite()
    loss.backward()
    grads = [p.grad for p in pair.student.parameters() if p.grad is not None]
    assert all(g.abs().max() < 1e6 for g in grads), "a map without direction has no gradient"


@pytest.mark.parametrize("name", TRAINED)
def test_connectors_are_trained_beside_the_student_and_dropped(digits, pair, progress, name):
    known = pair()
    names = list(known.student.state_dict())
    objective = Objective.parse({name: {"weight": 1.0, "at": "stages"}}).build(known)
    before = deepcopy(objective.state_dict())
    assert any(p.requires_grad for p in objective.parameters())
    learner = _learner(known, digits(), objective)
    batch = Batch(known.sample, torch.zeros(4).long(), torch.arange(4))
    losses = [learner.step(batch, progress(step=i))["loss"].item() for i in range(5)]
    assert losses[-1] < losses[0]
    for key, parameter in objective.named_parameters():
        assert not torch.equal(parameter.detach(), before[key]), f"{key} learnt nothing"
    assert list(learner.results[0].state_dict()) == names


def _learner(pair, data, objective):
    """Without weight decay, which moves every weight whether it learns or not."""
    taught = [FrozenTeacher(teacher) for teacher in pair.teachers]
    teachers = Teachers(taught, data, pair.sample, torch.float32)
    training = Training.parse({"lr": 0.01, "schedule": "constant", "weight_decay": 0.0})
    cpu = torch.device("cpu")
    learner = Learner(pair.student, teachers, objective, training, torch.float32, cpu)
    learner.train()
    return learner


@pytest.mark.parametrize("name", NAMES)
def test_blocks_that_are_not_there_are_refused(pair, name):
    with pytest.raises(ConfigError, match="unknown block of the student that gives a map 'conv9'"):
        made(name, pair(), at=[["conv9", "conv1"]])
