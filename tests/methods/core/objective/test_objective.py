"""Objectives: read, written, searched, and summed."""

from __future__ import annotations

import pickle

import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.spaces.config.base import Config, fingerprint, setting
from stillhouse.spaces.config.domains import LogUniform, Uniform
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Output

BOTH = {"cross_entropy": {}, "soft_targets": {"weight": 0.9, "temperature": 4.0}}


class Stage(Config):
    """As a stage holds its objective."""

    objective: Objective = setting(Objective.parse({"cross_entropy": {}}), "what to learn from")
    other: Objective | None = setting(None, "may be missing")


def batch_of(size=4):
    labels = torch.arange(size) % 10
    return Batch(torch.zeros(size, 1, 8, 8), labels, torch.arange(size))


def outputs(*seeds, size=4, dtype=torch.float32):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return [Output(torch.randn(size, 10, generator=g).to(dtype), {}) for g in generators]


def test_defaults_are_filled_and_read_back():
    objective = Objective.parse(BOTH)
    plain = objective.plain()
    assert list(plain) == ["cross_entropy", "soft_targets"]
    assert plain["cross_entropy"] == {"weight": 1.0, "schedule": None, "label_smoothing": 0.0}
    assert plain["soft_targets"]["temperature"] == 4.0
    assert Objective.parse(plain) == objective
    assert hash(Objective.parse(plain)) == hash(objective)
    assert pickle.loads(pickle.dumps(objective)) == objective


def test_identity_holds_versions():
    identity = Objective.parse(BOTH).identity()
    assert identity["soft_targets"]["version"] == METHODS.load("soft_targets").version
    other_order = {name: BOTH[name] for name in reversed(BOTH)}
    assert fingerprint(Objective.parse(other_order).identity()) == fingerprint(identity)


def test_space_is_what_stands_beside_the_fields():
    space = Objective.parse(BOTH).search_space()
    assert space["soft_targets.temperature"] == LogUniform(1, 20)
    assert space["soft_targets.weight"] == Uniform(0, 1)
    assert space["cross_entropy.label_smoothing"] == Uniform(0, 0.3)


def test_is_a_type_that_settings_hold():
    stage = Stage.parse({"objective": BOTH})
    assert stage.objective == Objective.parse(BOTH)
    assert Stage.parse(stage.plain()) == stage
    assert stage.plain()["other"] is None
    assert Stage.parse({"other": BOTH}).other == stage.objective
    assert hash(stage) == hash(Stage.parse({"objective": BOTH}))


@pytest.mark.parametrize(
    ("written", "problems"),
    [
        ({}, ["o: needs {method: {settings}}, found {}; methods: "]),
        (None, ["o: needs {method: {settings}}, found None"]),
        (["cross_entropy"], ["o: needs {method: {settings}}"]),
        ({"cross_entropie": {}}, ["o: unknown method 'cross_entropie'; did you mean 'cross_en"]),
        ({3: {}}, ["o: unknown method 3"]),
        ({"cross_entropy": 1.0}, ["o.cross_entropy: needs a mapping of settings, found 1.0"]),
        ({"soft_targets": {"temp": 1}}, ["o.soft_targets: unknown field 'temp'; did you mean 'te"]),
        ({"soft_targets": {"temperature": 0}}, ["o.soft_targets.temperature: "]),
        ({"soft_targets": {"weight": -1}}, ["o.soft_targets.weight: "]),
        ({"cross_entropy": {"schedule": "stp"}}, ["o.cross_entropy.schedule: unknown schedule"]),
        ({"cross_entropy": {"weight": 0}}, ["o: every weight is 0"]),
        (
            {"cross_entropy": {"weigth": 1}, "soft_target": {}},
            ["o.cross_entropy: unknown field 'weigth'", "o: unknown method 'soft_target'"],
        ),
    ],
)
def test_mistakes_are_all_named_with_their_place(written, problems):
    for wrong in (lambda: Objective.parse(written, "o"), lambda: Outer.parse({"o": written})):
        with pytest.raises(ConfigError) as caught:
            wrong()
        lines = str(caught.value).splitlines()
        assert len(lines) == len(problems)
        for line, start in zip(lines, problems, strict=True):
            assert line.startswith(start)


class Outer(Config):
    o: Objective


def test_what_it_needs():
    assert Objective.parse(BOTH).needs_teacher
    assert not Objective.parse({"cross_entropy": {}}).needs_teacher
    assert not Objective.parse({"cross_entropy": {}, "soft_targets": {"weight": 0}}).needs_teacher


def test_a_teacher_must_be_there(pair):
    with pytest.raises(ConfigError, match="soft_targets: learns from a teacher, and none is given"):
        Objective.parse(BOTH).build(pair(teachers=0))


def test_a_method_that_does_not_fit_says_which(pair):
    objective = Objective.parse({"soft_targets": {"drop": 3}})
    with pytest.raises(ConfigError, match=r"soft_targets\.drop: leaves no teacher"):
        objective.build(pair(teachers=2))


def test_the_total_is_the_weighted_sum(pair, progress):
    settings = {"cross_entropy": {"weight": 0.25}, "soft_targets": {"weight": 3.0}}
    module = Objective.parse(settings).build(pair())
    student, teacher = outputs(0, 1)
    total, losses = module(student, [teacher], batch_of(), progress())
    assert list(losses) == ["cross_entropy", "soft_targets"]
    assert total.item() == pytest.approx(
        0.25 * losses["cross_entropy"].item() + 3.0 * losses["soft_targets"].item()
    )


def test_a_method_without_weight_is_neither_built_nor_asked(pair, progress):
    module = Objective.parse({"cross_entropy": {}, "soft_targets": {"weight": 0}}).build(pair(0))
    total, losses = module(*outputs(0), [], batch_of(), progress())
    assert list(losses) == ["cross_entropy"]
    assert total.item() == losses["cross_entropy"].item()


def test_a_schedule_lets_a_method_join_late(pair, progress):
    settings = {"cross_entropy": {}, "soft_targets": {"schedule": {"switch": {"since": 5}}}}
    module = Objective.parse(settings).build(pair())
    student, teacher = outputs(0, 1)
    assert not module.needs_teachers(progress(epoch=4))
    _, early = module(student, [], batch_of(), progress(epoch=4))
    assert list(early) == ["cross_entropy"]
    assert module.needs_teachers(progress(epoch=5))
    _, late = module(student, [teacher], batch_of(), progress(epoch=5))
    assert list(late) == ["cross_entropy", "soft_targets"]


def test_weights_follow_their_schedule_within_an_epoch(pair, progress):
    settings = {"cross_entropy": {"weight": 2.0, "schedule": {"linear": {"until": 4}}}}
    module = Objective.parse(settings).build(pair())
    at = progress(epoch=1, step=2, steps_per_epoch=4)
    assert module.active_weights(at) == pytest.approx({"cross_entropy": 2.0 * (1 - 1.5 / 4)})


def test_half_precision_is_raised_before_any_loss(pair, progress):
    module = Objective.parse(BOTH).build(pair())
    student, teacher = outputs(0, 1, dtype=torch.bfloat16)
    total, _ = module(student, [teacher], batch_of(), progress())
    assert total.dtype == torch.float32
    exact = [Output(o.logits.double(), {}) for o in (student, teacher)]
    wanted, _ = module(exact[0], exact[1:], batch_of(), progress())
    assert wanted.dtype == torch.float64
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
