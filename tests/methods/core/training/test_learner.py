"""One step of learning, against the same worked out by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.objective.method import BuildContext, Progress
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.learner import Learner
from stillhouse.methods.core.training.optimisation import build_optimizer
from stillhouse.methods.core.training.teachers import Teachers

CPU = torch.device("cpu")


def learner_of(student, data, **settings):
    training = Training.parse({"epochs": 4, "schedule": "constant", "lr": 0.1, **settings})
    sample = next(iter(data.batches("train", batch_size=8, device="cpu"))).images
    student = student.to(memory_format=torch.channels_last)
    objective = Objective.parse({"cross_entropy": {}}).build(
        BuildContext(student, [], 10, 200, sample)
    )
    teachers = Teachers([], data, sample, torch.float32)
    learner = Learner(student, teachers, objective, training, torch.float32, CPU)
    learner.train()
    return learner


def batches(data, epoch=0):
    return list(data.train_batches(batch_size=32, epoch=epoch, seed=0, device="cpu"))


def take(learner, data):
    for step, batch in enumerate(batches(data)):
        yield learner.step(batch, Progress(0, 4, step, data.steps(32), 0))


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


RULES = [
    ({"optimizer": "sgd"}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ({"optimizer": "sgd", "momentum": 0.0, "nesterov": False}, torch.optim.SGD, {}),
    ({"optimizer": "adamw", "lr": 0.01}, torch.optim.AdamW, {}),
]


@pytest.mark.parametrize(("settings", "rule", "theirs"), RULES)
@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2_x0_5"])
def test_steps_are_those_of_the_plain_optimiser(digits, build, name, settings, rule, theirs):
    """Fused kernels walk memory in order; channels last must not confuse them."""
    data, student = digits(), build(name)
    plain = copy.deepcopy(student)
    rate = {"lr": settings.get("lr", 0.1), "weight_decay": 5e-4, "foreach": False, "fused": False}
    optimizer = rule(plain.parameters(), **rate, **theirs)
    for _ in take(learner_of(student, data, **settings), data):
        pairs = list(zip(student.parameters(), plain.parameters(), strict=True))
        for mine, other in pairs:
            other.grad = mine.grad.contiguous()
        optimizer.step()
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("settings", "rule", "theirs"), RULES)
def test_weight_decay_may_leave_norms_and_biases_alone(digits, build, settings, rule, theirs):
    """Named by module here, and by nothing but their axes in the product."""
    data, student = digits(), build("resnet8")
    plain = copy.deepcopy(student)
    pulled, kept = [], []
    for module in plain.modules():
        for name, parameter in module.named_parameters(recurse=False):
            norm = isinstance(module, torch.nn.BatchNorm2d)
            (kept if norm or name == "bias" else pulled).append(parameter)
    learner = learner_of(student, data, weight_decay=0.1, decay_weights_only=True, **settings)
    training = Training.parse({"weight_decay": 0.1, "decay_weights_only": True, **settings})
    groups = build_optimizer(list(student.parameters()), training).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [
        (len(pulled), 0.1),
        (len(kept), 0.0),
    ]
    rate = {"lr": settings.get("lr", 0.1), "foreach": False, "fused": False}
    apart = [{"params": pulled, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}]
    optimizer = rule(apart, **rate, **theirs)
    for _ in take(learner, data):
        pairs = list(zip(student.parameters(), plain.parameters(), strict=True))
        for mine, other in pairs:
            other.grad = mine.grad.contiguous()
        optimizer.step()
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("only", [False, True])
def test_a_step_without_a_gradient_shrinks_what_decays(build, only):
    """By lr * weight_decay, and nothing else."""
    student = build("resnet8")
    settings = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.5, "lr": 0.1}
    training = Training.parse({"decay_weights_only": only, **settings})
    optimizer = build_optimizer(list(student.parameters()), training)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in student.named_parameters():
        alone = only and ("bn" in name or name.endswith("bias") or parameter.dim() == 1)
        torch.testing.assert_close(parameter, before[name] * (1.0 if alone else 0.95))


def test_the_switch_of_weight_decay_is_in_a_key_only_where_it_is_on():
    assert "decay_weights_only" not in Training().identity()
    assert Training(decay_weights_only=True).identity()["decay_weights_only"] is True


def test_the_average_is_the_closed_form(digits, build):
    """The weight of w_k in the end is (1 - d_k) times all later d; statistics alike."""
    data, student = digits(), build("resnet8")
    learner = learner_of(student, data, ema=0.3)
    seen = [copy.deepcopy(student.state_dict())]
    for _ in take(learner, data):
        seen.append(copy.deepcopy(student.state_dict()))
    decays = [min(0.3, (1 + n) / (10 + n)) for n in range(len(seen) - 1)]
    assert decays[:4] == pytest.approx([1 / 10, 2 / 11, 3 / 12, 0.3])
    shares = [math.prod(decays)]
    shares += [(1 - d) * math.prod(decays[k + 1 :]) for k, d in enumerate(decays)]
    assert sum(shares) == pytest.approx(1)
    found = learner.results[0].state_dict()
    for name, value in found.items():
        if value.is_floating_point():
            terms = [
                share * state[name].double() for share, state in zip(shares, seen, strict=True)
            ]
            torch.testing.assert_close(value.double(), sum(terms), rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, seen[-1][name])
    assert torch.equal(found["mean"], student.mean)


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_the_gradient_is_clipped_to_its_norm(digits, build, clip):
    data, student = digits(), build("resnet8")
    before = flat(student.parameters())
    settings = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "lr": 1.0}
    learner = learner_of(student, data, clip=clip, **settings)
    plain = copy.deepcopy(student).train()
    batch = batches(data)[0]
    loss = F.cross_entropy(plain(batch.images, ()).logits, batch.labels)
    norm = flat(torch.autograd.grad(loss, plain.parameters())).norm()
    next(take(learner, data))
    moved = (flat(student.parameters()) - before).norm()
    assert moved.item() == pytest.approx(min(clip, norm.item()), rel=1e-3)


def test_a_rate_of_the_schedule_is_used_at_each_step(digits, build):
    data, student = digits(), build("cnn2")
    settings = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    learner = learner_of(student, data, schedule={"linear": {"until": 1}}, **settings)
    plain = copy.deepcopy(student).train()
    for step, (batch, _) in enumerate(zip(batches(data), take(learner, data), strict=True)):
        loss = F.cross_entropy(plain(batch.images, ()).logits, batch.labels)
        grads = torch.autograd.grad(loss, plain.parameters())
        with torch.no_grad():
            for parameter, grad in zip(plain.parameters(), grads, strict=True):
                parameter.sub_(grad, alpha=0.1 * (1 - step / data.steps(32)))
    for mine, other in zip(student.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_frozen_weights_stay(digits, build):
    data, student = digits(), build("resnet8")
    student.blocks["stem"].requires_grad_(False)
    before = copy.deepcopy(student.state_dict())
    list(take(learner_of(student, data), data))
    for name, value in student.state_dict().items():
        if name.startswith("blocks.stem.conv"):
            assert torch.equal(value, before[name])
    assert not torch.equal(
        student.state_dict()["blocks.head.fc.weight"], before["blocks.head.fc.weight"]
    )
