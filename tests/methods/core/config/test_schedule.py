"""Schedules at moments worked out by hand, and against torch's own."""

from __future__ import annotations

import math

import pytest
import torch

from stillhouse.methods.core.config.schedule import (
    Constant,
    Cosine,
    Linear,
    OneCycle,
    Schedule,
    Step,
    Switch,
    Warmup,
)
from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.objective.method import MethodConfig
from stillhouse.spaces.config.base import Config
from stillhouse.spaces.config.problems import ConfigError


class Holder(Config):
    schedule: Schedule


def rates(epochs, **settings):
    training = Training.parse({"epochs": epochs, **settings})
    return training.lr_at


def test_rate_of_the_residual_network_recipe():
    """0.1, then 0.01 from half of training, 0.001 from three quarters (TAKD's intended one)."""
    rate = rates(160, lr=0.1, schedule={"step": {"milestones": [0.5, 0.75]}})
    expected = {0: 0.1, 79.9: 0.1, 80: 0.01, 119.9: 0.01, 120: 0.001, 159.9: 0.001}
    assert {at: rate(at) for at in expected} == pytest.approx(expected)


def test_milestones_in_epochs_and_their_gamma():
    step = Step(milestones=(60, 120, 160), gamma=0.2)
    found = [step.factor(at, 200) for at in (59.99, 60, 120, 160)]
    assert found == pytest.approx([1, 0.2, 0.04, 0.008])


def test_a_warm_up_counts_epochs_from_one_and_stays_within_each():
    rises = Warmup(epochs=20)
    found = [rises.factor(at, 240) for at in (0, 0.99, 1, 9.5, 18.99, 19, 20, 239)]
    assert found == pytest.approx([0.05, 0.05, 0.1, 0.5, 0.95, 1, 1, 1])
    assert Warmup(epochs=1).factor(0, 100) == 1.0
    assert Warmup(epochs=0.5).factor(0, 10) == pytest.approx(0.2)
    told = Holder.parse({"schedule": {"warmup": {"epochs": 20}}})
    assert told.schedule == rises


def test_early_decay_teacher_of_channel_distillation():
    """Its table counts epochs from 1: cross entropy joins after 60, the other term decays."""
    joins = MethodConfig.parse({"schedule": {"switch": {"since": 60}}})
    decays = MethodConfig.parse(
        {"weight": 6.0, "schedule": {"step": {"milestones": [59, 159], "gamma": 0.9}}}
    )
    table = {1: (0, 6), 59: (0, 6), 60: (0, 5.4), 61: (1, 5.4), 159: (1, 5.4), 160: (1, 4.86)}
    for epoch, (cross_entropy, channels) in table.items():
        assert joins.weight_at(epoch - 1, 200) == cross_entropy
        assert decays.weight_at(epoch - 1, 200) == pytest.approx(channels)


def test_early_decay_teacher_on_imagenet():
    joins = MethodConfig.parse({"schedule": {"switch": {"since": 30}}})
    decays = MethodConfig.parse(
        {"weight": 6.0, "schedule": {"step": {"milestones": [29, 59, 89], "gamma": 0.9}}}
    )
    for epoch, cross_entropy in {30: 0, 31: 1, 60: 1}.items():
        assert joins.weight_at(epoch - 1, 100) == cross_entropy
        assert decays.weight_at(epoch - 1, 100) == pytest.approx(6 * 0.9 ** (epoch // 30))


def test_a_switch_ends_too():
    switch = Switch(since=0.25, until=0.5)
    found = [switch.factor(at, 8) for at in (0, 1.99, 2, 3.99, 4, 7)]
    assert found == [0, 0, 1, 1, 0, 0]


def test_a_line_between_two_places():
    line = Linear(start=1.0, stop=0.2, since=2, until=6)
    found = [line.factor(at, 10) for at in (0, 2, 3, 5, 6, 9)]
    assert found == pytest.approx([1, 1, 0.8, 0.4, 0.2, 0.2])
    assert Linear().factor(2.5, 10) == pytest.approx(0.75)
    assert Linear(start=0.0, stop=1.0, until=20).factor(10, 240) == pytest.approx(0.5)


def test_cosine_with_its_rise_and_floor():
    assert [Cosine().factor(at, 4) for at in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
    raised = Cosine(warmup=2, floor=0.1)
    found = [raised.factor(at, 10) for at in (0, 1, 2, 6, 10)]
    assert found == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    assert Cosine(warmup=0.2, floor=0.1).factor(1, 10) == pytest.approx(0.5)


def test_cosine_is_that_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert 0.3 * Cosine().factor(step, 20) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_one_cycle_is_that_of_torch():
    """Torch puts its peak and its end one step early; the curve between is the same."""
    total, peak = 200, 0.3
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=total, pct_start=peak)
    top = peak * total - 1
    for step in range(total):
        if step <= top:
            fraction = peak * step / top
        else:
            fraction = peak + (1 - peak) * (step - top) / (total - 1 - top)
        assert 0.3 * OneCycle().factor(fraction, 1) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step() if step < total - 1 else None


@pytest.mark.parametrize("kind", [Constant, Step, Switch, Linear, Cosine, OneCycle])
def test_every_factor_is_finite_and_not_negative_throughout(kind):
    for epochs in (1, 3, 200):
        found = [kind().factor(epochs * i / 50, epochs) for i in range(51)]
        assert all(math.isfinite(x) and x >= 0 for x in found)


@pytest.mark.parametrize(
    "written",
    ["cosine", {"cosine": {"warmup": 5}}, {"kind": "cosine", "warmup": 5.0}, Cosine(warmup=5)],
)
def test_can_be_written_in_several_ways(written):
    holder = Holder.parse({"schedule": written})
    assert isinstance(holder.schedule, Cosine)
    assert Holder.parse(holder.plain()) == holder


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("cosin", "schedule: unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"step": {"gama": 1}}, "did you mean 'gamma'"),
        ({"step": {"gamma": -1}}, "gamma: .*greater than or equal to 0"),
        ({"step": {"milestones": [-1]}}, "milestones.*greater than or equal to 0"),
        ({"step": 5}, "schedule: needs {step: {settings}}"),
        (7, "schedule: needs a name"),
    ],
)
def test_mistakes_are_named(written, message):
    with pytest.raises(ConfigError, match=message):
        Holder.parse({"schedule": written})
