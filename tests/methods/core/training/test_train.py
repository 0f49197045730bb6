"""Training: what it reports, what it leaves behind, and that it can be interrupted."""

from __future__ import annotations

import copy
import itertools
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stillhouse.methods.core.objective import objective as objectives
from stillhouse.methods.core.objective.method import Method
from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.runtime.precision import has_native_bfloat16
from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.methods.core.training.train import Diverged, Training, train
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network
from tests.support.checkpointers import MemoryCheckpointer

LABELS = Objective.parse({"cross_entropy": {}})
BOTH = Objective.parse({"cross_entropy": {"weight": 0.3}, "soft_targets": {"weight": 0.7}})
TIMES = ("seconds", "images_per_second")


def run(student, data, objective=LABELS, teachers=(), saves=None, seed=0, **settings):
    training = Training.parse({"epochs": 3, "batch_size": 32, "lr": 0.05, **settings})
    return train(
        student, teachers, objective, data, training, seed=seed, device="cpu", checkpointer=saves
    )


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def untimed(reports):
    return [{k: v for k, v in report.items() if k not in TIMES} for report in reports]


def bare():
    """A network without batch norm, whose outputs do not depend on its mode."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return Network({"head": layers})


class Translator(Method):
    """A method with weights of its own, between two maps of different width."""

    def __init__(self, config, context):
        super().__init__(config, context)
        self.connector = nn.Conv2d(16, 32, 1, bias=False)

    def student_taps(self):
        return ("stage1_1",)

    def teacher_taps(self, teacher):
        return ("stage2_1",)

    def forward(self, student, teachers, batch, progress):
        mine = F.avg_pool2d(self.connector(student.features["stage1_1"]), 2)
        return F.mse_loss(mine, teachers[0].features["stage2_1"])


@pytest.fixture
def with_translator(monkeypatch):
    """As if there were a file ``methods/translator.py``."""
    names = (*METHODS.names(), "translator")
    load = lambda name: Translator if name == "translator" else METHODS.load(name)  # noqa: E731
    folder = SimpleNamespace(names=lambda: names, load=load)
    monkeypatch.setattr(objectives, "METHODS", folder)


def test_a_report_an_epoch(digits, build):
    data = digits()
    reports = list(run(build("cnn2"), data, BOTH, [FrozenTeacher(build("resnet8"))], epochs=4))
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
    for report in reports:
        assert set(report) == {
            *("epoch", "lr", "train_loss", "train_cross_entropy", "train_soft_targets"),
            *("val_accuracy", "val_nll", "val_ece", "val_agreement"),
            *("best_val_accuracy", "best_epoch", "seconds", "images_per_second"),
        }
        assert all(type(value) is float for value in report.values())
        total = 0.3 * report["train_cross_entropy"] + 0.7 * report["train_soft_targets"]
        assert report["train_loss"] == pytest.approx(total, rel=1e-5)
    accuracies = [report["val_accuracy"] for report in reports]
    assert reports[-1]["best_val_accuracy"] == max(accuracies)
    assert reports[-1]["best_epoch"] == 1 + accuracies.index(max(accuracies))


def test_it_learns(digits, build):
    reports = list(run(build("resnet8"), digits(limit=None), epochs=3, lr=0.1))
    assert reports[-1]["val_accuracy"] > 0.9
    assert reports[-1]["train_loss"] < reports[0]["train_loss"] / 3


def test_a_student_comes_to_agree_with_its_teacher(digits, build):
    data, teacher = digits(limit=None), build("resnet8")
    list(run(teacher, data, epochs=3, lr=0.1))
    soft = Objective.parse({"soft_targets": {}})
    reports = list(run(build("resnet8", seed=9), data, soft, [FrozenTeacher(teacher)], lr=0.1))
    assert reports[-1]["val_agreement"] > 0.9
    assert "train_cross_entropy" not in reports[-1]


def test_losses_are_means_over_examples_not_batches(digits):
    """The last batch is smaller; with a rate of nearly 0 the loss is that of the start."""
    data, student = digits(limit=110), bare()
    everything = next(iter(data.batches("train", batch_size=1000, device="cpu")))
    with torch.no_grad():
        expected = F.cross_entropy(student(everything.images, ()).logits, everything.labels)
    (report,) = run(student, data, epochs=1, lr=1e-12, weight_decay=0.0)
    assert report["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_rates_of_the_recipe(digits, build):
    schedule = {"step": {"milestones": [0.5, 0.75]}}
    reports = list(run(build("cnn2"), digits(), epochs=4, lr=0.1, schedule=schedule))
    assert [report["lr"] for report in reports] == pytest.approx([0.1, 0.1, 0.01, 0.001])


@pytest.mark.parametrize("augment", [{}, {"crop": 1}])
def test_the_same_seed_gives_the_same_bits(digits, build, augment):
    data = digits(augment=augment)
    spec = {"wrn-10-1": {"dropout": 0.3}}
    results = []
    for seed in (0, 0, 1):
        torch.rand(seed + 3)  # what ran before does not matter
        student = build(spec)
        results.append((untimed(run(student, data, epochs=2, seed=seed)), weights(student)))
    assert results[0][0] == results[1][0]
    assert same(results[0][1], results[1][1])
    assert not same(results[0][1], results[2][1])


def test_every_epoch_draws_other_random_numbers(digits):
    drawn = []

    class Drawing(nn.Module):
        def forward(self, x):
            drawn.append(torch.rand(()).item())
            return x

    list(run(Network({"drawing": Drawing(), "head": bare().blocks["head"]}), digits(), epochs=3))
    assert len(set(drawn)) == len(drawn)


def test_the_callers_random_numbers_are_left_alone(digits, build):
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    list(run(build({"wrn-10-1": {"dropout": 0.3}}), digits(), epochs=1))
    assert torch.equal(torch.rand(4), expected)


INTERRUPTED = [
    {"optimizer": "sgd"},
    {"optimizer": "adamw", "lr": 1e-3},
    {"optimizer": "sgd", "ema": 0.9, "keep": "best", "clip": 1.0},
    {"optimizer": "adamw", "lr": 1e-3, "ema": 0.9, "keep": "best"},
    {"optimizer": "sgd", "momentum": 0.0, "nesterov": False},
]


@pytest.mark.parametrize("settings", INTERRUPTED)
@pytest.mark.parametrize("augment", [{"crop": 1, "flip": True}, {"crop": 1, "views": 2}])
@pytest.mark.usefixtures("with_translator")
def test_resumed_training_ends_with_the_same_bits(digits, build, settings, augment):
    data = digits(augment=augment)
    late = {"schedule": {"switch": {"since": 2}}}
    objective = Objective.parse(
        {"cross_entropy": {}, "soft_targets": {"drop": 1, "combine": "sum"}, "translator": late}
    )
    teachers = [FrozenTeacher(build("resnet8", seed=i)) for i in (5, 6)]
    spec = "resnet8"

    def start(seed, saves=None):
        student = build(spec, seed=seed)
        return student, run(student, data, objective, teachers, saves, epochs=5, **settings)

    whole, reports = start(0)
    expected = untimed(reports)
    saves = MemoryCheckpointer()
    _, first = start(0, saves)
    for _ in itertools.islice(first, 3):
        pass
    first.close()
    resumed, reports = start(1, saves)
    assert untimed(reports) == expected
    assert same(weights(resumed), weights(whole))


def test_training_resumes_where_it_was_last_stored(digits, build):
    saves = MemoryCheckpointer(every=2)
    first = run(build("cnn2"), digits(), saves=saves, epochs=4)
    for _ in itertools.islice(first, 3):
        pass
    assert len(json.loads(saves.load()["curve"].numpy().tobytes())) == 2
    student, whole = build("cnn2", seed=1), build("cnn2")
    reports = list(run(student, digits(), saves=saves, epochs=4))
    list(run(whole, digits(), epochs=4))
    assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
    assert same(weights(student), weights(whole))


def test_what_is_stored_when_all_is_done_needs_no_more_steps(digits, build):
    saves = MemoryCheckpointer()
    one, other = build("cnn2"), build("cnn2", seed=1)
    reports = list(run(one, digits(), saves=saves))
    assert list(run(other, digits(), saves=saves)) == reports
    assert same(weights(one), weights(other))


def test_the_best_epochs_weights_can_be_kept(digits, build):
    """A rate that explodes after two epochs makes the last epoch a bad one."""
    settings = {"epochs": 4, "lr": 0.5, "schedule": {"step": {"milestones": [3], "gamma": 40.0}}}
    data = digits(limit=None)
    kept, last = build("resnet8"), build("resnet8")
    reports = list(run(kept, data, keep="best", **settings))
    list(run(last, data, **settings))
    best = reports[-1]
    assert best["best_epoch"] < 4
    assert best["val_accuracy"] < best["best_val_accuracy"]
    shorter = build("resnet8")
    epochs = itertools.islice(run(shorter, data, **settings), int(best["best_epoch"]))
    assert untimed(epochs) == untimed(reports[: int(best["best_epoch"])])
    assert same(weights(kept), weights(shorter))
    assert not same(weights(kept), weights(last))


def test_the_average_of_weights_is_the_result(digits, build):
    student, plain = build("cnn2"), build("cnn2")
    averaged = list(run(student, digits(), epochs=2, ema=0.95))
    unaveraged = list(run(plain, digits(), epochs=2))
    assert not same(weights(student), weights(plain))
    assert [r["train_loss"] for r in averaged] == [r["train_loss"] for r in unaveraged]
    assert averaged[-1]["val_nll"] != unaveraged[-1]["val_nll"]


def test_training_that_diverges_says_so(digits, build):
    with pytest.raises(
        Diverged, match=r"train_\w+ is \w+ after epoch 1: .* smaller lr than 1e\+12"
    ):
        list(run(build("resnet8"), digits(), lr=1e12, momentum=0.0, nesterov=False))


def test_weights_that_break_in_the_last_step_are_noticed(digits):
    """One step an epoch: its loss is still a number, the weights after it are not."""
    student = bare()
    with pytest.raises(Diverged, match="val_nll is nan after epoch 1"):
        list(run(student, digits(), lr=1e38, batch_size=512, clip=1e30))


@pytest.mark.usefixtures("with_translator")
def test_teachers_are_bit_identical_after_training(digits, build):
    teacher = build("resnet8", seed=3).train()
    before = copy.deepcopy(teacher.state_dict())
    objective = Objective.parse({"soft_targets": {}, "translator": {}})
    list(run(build("resnet8"), digits(), objective, [FrozenTeacher(teacher)]))
    assert same(before, teacher.state_dict())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


@pytest.mark.usefixtures("with_translator")
def test_a_methods_own_weights_learn_along_and_are_dropped(digits, build):
    student, data = build("resnet8"), digits()
    names = list(student.state_dict())
    teachers = [FrozenTeacher(build("resnet8", seed=3))]
    saves = MemoryCheckpointer()
    reports = list(
        run(student, data, Objective.parse({"translator": {}}), teachers, saves, epochs=8, lr=0.1)
    )
    assert reports[-1]["train_translator"] < reports[0]["train_translator"] / 2
    assert list(student.state_dict()) == names
    assert any("connector" in name for name in saves.load())


def test_where_no_method_is_active_nothing_is_learnt(digits):
    late = Objective.parse({"cross_entropy": {"schedule": {"switch": {"since": 1}}}})
    student = bare()
    before = weights(student)
    reports = run(student, digits(), late, epochs=2)
    first = next(reports)
    assert same(before, weights(student))
    assert "train_loss" not in first
    assert "train_loss" in next(reports)


def test_training_without_a_validation_split(digits, build):
    data = digits(validation=0.0)
    (report,) = run(build("cnn2"), data, epochs=1)
    assert not any("val" in name for name in report)
    with pytest.raises(ConfigError, match=r"training\.keep: best needs a validation split"):
        list(run(build("cnn2"), data, keep="best"))


def test_the_result_is_contiguous(digits, build):
    student = build("resnet8")
    list(run(student, digits(), epochs=1))
    assert all(value.is_contiguous() for value in student.state_dict().values())
    assert not student.training


def test_bfloat16_learns_what_float32_learns(digits, build):
    one, other = (
        list(run(build("resnet8"), digits(limit=None), precision=precision, lr=0.1))
        for precision in ("float32", "bfloat16")
    )
    assert other[-1]["train_loss"] == pytest.approx(one[-1]["train_loss"], rel=0.25)
    assert other[-1]["val_accuracy"] > 0.9
    assert other[0]["train_loss"] != one[0]["train_loss"], "it was not used at all"


def test_auto_is_float32_where_images_are_tiny(digits, build):
    one, other = (
        untimed(run(build("cnn2"), digits(), precision=precision, epochs=1))
        for precision in ("auto", "float32")
    )
    assert one == other
    assert isinstance(has_native_bfloat16(torch.device("cpu")), bool)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"momentum": 0.0}, "nesterov needs momentum above 0"),
        ({"lr": 0.0}, "lr: .* greater than 0"),
        ({"optimizer": "adam"}, "optimizer: "),
        ({"optimiser": "sgd"}, "did you mean 'optimizer'"),
        ({"schedule": "cos"}, "schedule: unknown schedule 'cos'"),
        ({"ema": 1.0}, "ema: .* less than 1"),
    ],
)
def test_mistakes_in_settings(written, message):
    with pytest.raises(ConfigError, match=message):
        Training.parse(written)


def test_defaults_lie_in_their_ranges_and_read_back():
    training = Training()
    assert Training.parse(training.plain()) == training
    for name, domain in Training.search_space().items():
        assert domain.contains(getattr(training, name)), name
