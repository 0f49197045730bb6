"""Heads of a teacher: taught on a frozen network, and teaching together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.methods.core.data.base.batch import Batch
from stillhouse.methods.core.objective.method import BuildContext
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.heads import train_heads
from stillhouse.methods.core.training.train import Diverged, Training
from stillhouse.methods.heads import Heads
from stillhouse.methods.soft_targets import SoftTargets
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.heads import maps, stage_ends, with_linear_heads
from stillhouse.spaces.modules.network import Output
from tests.support.checkpointers import MemoryCheckpointer

SHAPE = (1, 8, 8)
BATCH = Batch(torch.zeros(6, *SHAPE), torch.zeros(6).long(), torch.arange(6))
FAST = Training.parse({"epochs": 4, "batch_size": 32, "lr": 0.02})


def headed(network, seed=5):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return with_linear_heads(network, SHAPE, 10, stage_ends(maps(network, SHAPE))).eval()


@pytest.fixture
def scene(build):
    """A method with its settings, and how it judges logits: the teacher's and every head's."""

    def of(teachers=1, **settings):
        taught = [headed(build("cnn8", seed=i)) for i in range(teachers)]
        pair = BuildContext(build("cnn2").eval(), taught, 10, 200, torch.rand(4, *SHAPE))
        method = Heads(Heads.Config.parse(settings), pair)

        def loss(student, *said):
            outputs = [
                Output(torch.as_tensor(own), {k: torch.as_tensor(v) for k, v in heads.items()})
                for own, heads in said
            ]
            return method(Output(torch.as_tensor(student), {}), outputs, BATCH, None).item()

        return method, loss

    return of


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def softened(student, teacher, t):
    """T^2 KL of the softened probabilities, summed over classes, a mean over the batch."""
    q, p = log_softmax(student / t), log_softmax(teacher / t)
    return t**2 * (np.exp(p) * (p - q)).sum(axis=1).mean()


def logits(seed):
    return np.random.RandomState(seed).normal(size=(6, 10)) * 3


# The closed form and the definition


def test_k_heads_equal_to_the_teacher_teach_k_plus_one_times_as_strongly(scene, pair):
    method, loss = scene()
    heads = method.teacher_taps(0)
    assert len(heads) == 4
    own, student = logits(1), logits(2)
    plain = SoftTargets(SoftTargets.Config(), pair())
    outputs = Output(torch.from_numpy(student), {}), [Output(torch.from_numpy(own), {})]
    once = plain(*outputs, BATCH, None).item()
    assert loss(student, (own, dict.fromkeys(heads, own))) == pytest.approx(5 * once, rel=1e-12)
    _, loss = scene(form="mean")
    assert loss(student, (own, dict.fromkeys(heads, own))) == pytest.approx(once, rel=1e-12)


def test_every_head_counts_with_its_weight(scene):
    weights = {"conv1": 0.0, "conv3": 0.5, "conv5": 0.0, "output": 2.0}
    method, loss = scene(weights=weights, temperature=5.0)
    assert method.teacher_taps(0) == ("conv3_head", "conv8_head")
    student, own, first, last = map(logits, range(4))
    said = {"conv3_head": first, "conv8_head": last}
    wanted = 0.5 * softened(student, first, 5) + softened(student, last, 5)
    wanted += 2.0 * softened(student, own, 5)
    assert loss(student, (own, said)) == pytest.approx(wanted, rel=1e-12)
    mean = scene(weights=weights, temperature=5.0, form="mean")[1]
    assert mean(student, (own, said)) == pytest.approx(wanted / 3.5, rel=1e-12)


def test_the_teacher_itself_may_be_left_out(scene):
    weights = {"output": 0.0, "conv1": 0.0, "conv3": 0.0, "conv5": 0.0}
    _, loss = scene(weights=weights, temperature=3.0)
    student, own, last = map(logits, range(3))
    found = loss(student, (own, {"conv8_head": last}))
    assert found == pytest.approx(softened(student, last, 3), rel=1e-12)


def test_several_teachers_are_averaged(scene):
    method, loss = scene(teachers=2)
    student, one, other = map(logits, range(3))
    said = [(own, dict.fromkeys(method.teacher_taps(0), own)) for own in (one, other)]
    wanted = 5 * (softened(student, one, 4) + softened(student, other, 4)) / 2
    assert loss(student, *said) == pytest.approx(wanted, rel=1e-12)


def test_heads_are_told_apart_by_their_blocks_and_not_by_an_order(build):
    """Published code pairs files and weights by sorted names: another order, another network."""
    network = headed(build("cnn8"))
    turned = network.with_heads(dict(reversed(list(network.heads.items()))))
    images = torch.rand(3, *SHAPE)
    taps = [f"{name}_head" for name in network.heads]
    for name in taps:
        one, other = (n(images, taps).features[name] for n in (network, turned))
        assert torch.equal(one, other)
    assert {k: v.shape for k, v in network.state_dict().items()} == {
        k: v.shape for k, v in turned.state_dict().items()
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"conv2": 1.0}}, "weights: unknown head 'conv2'; did you mean"),
        (
            {"weights": dict.fromkeys(("conv1", "conv3", "conv5", "conv8", "output"), 0.0)},
            "raise one",
        ),
        ({"weights": {"conv1": -1.0}}, "needs 0 or more for each"),
        ({"at": "last"}, "needs stages or a list of blocks, found 'last'"),
        ({"at": []}, "needs stages or a list of blocks"),
    ],
)
def test_what_does_not_fit_is_said(scene, settings, message):
    with pytest.raises(ConfigError, match=message):
        scene(**settings)


def test_a_teacher_without_heads_is_refused(pair):
    with pytest.raises(ConfigError, match=r"has no heads; give it some with an entry `do: heads`"):
        Objective.parse({"heads": {}}).build(pair())


# Training them


def test_the_network_stays_as_it_is(build, digits):
    network = headed(build("cnn8"))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    list(train_heads(network, digits(), FAST, seed=0, device=torch.device("cpu")))
    after = network.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if name.startswith("heads.")}
    assert not network.training


def test_all_learn_in_one_pass_and_beat_chance(build, digits):
    network = headed(build("cnn8"))
    reports = list(
        train_heads(network, digits(limit=500), FAST, seed=0, device=torch.device("cpu"))
    )
    assert len(reports) == 4
    parts = [reports[-1][f"train_{name}_head"] for name in network.heads]
    assert reports[-1]["train_loss"] == pytest.approx(sum(parts))
    assert reports[-1]["train_loss"] < reports[0]["train_loss"]
    assert reports[-1]["conv1_head_best_val_accuracy"] > 0.5  # the shallowest reads pixels, nearly


def test_training_them_together_is_training_each_alone(build, digits):
    """The sum's gradient falls apart: no head feels another."""
    together = headed(build("cnn8"))
    alone = headed(build("cnn8"))
    alone = alone.with_heads({"conv5": alone.heads["conv5"]})
    for network in (together, alone):
        list(train_heads(network, digits(), FAST, seed=0, device=torch.device("cpu")))
    for one, other in zip(
        together.heads["conv5"].parameters(), alone.heads["conv5"].parameters(), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_each_head_keeps_its_own_best_epoch(build, digits):
    """By its accuracy on all that is held out; published code looks at the last batch's loss."""
    network, saves, data = (
        headed(build("cnn8")),
        MemoryCheckpointer(),
        digits(limit=150, validation=0.4),
    )
    training = Training.parse({"epochs": 8, "batch_size": 32, "lr": 0.3, "schedule": "constant"})
    cpu = torch.device("cpu")
    reports = list(train_heads(network, data, training, seed=0, device=cpu, checkpointer=saves))
    best = {}
    for name in network.heads:
        curve = [report[f"{name}_head_val_accuracy"] for report in reports]
        best[name] = int(np.argmax(curve))
        assert reports[-1][f"{name}_head_best_epoch"] == best[name] + 1
        assert reports[-1][f"{name}_head_best_val_accuracy"] == max(curve)
        for key, value in network.heads[name].state_dict().items():
            assert torch.equal(value, saves.saved[best[name]][f"heads.{name}.{key}"])
    assert len(set(best.values())) > 1, "another seed, please: all were best at once"


def test_the_test_split_is_never_looked_at(build, digits, monkeypatch):
    """Published code selects by the loss on it."""
    data, asked = digits(), set()
    whole = data.batches
    monkeypatch.setattr(
        data, "batches", lambda split, **kwargs: asked.add(split) or whole(split, **kwargs)
    )
    network = headed(build("cnn8"))
    list(train_heads(network, data, FAST, seed=0, device=torch.device("cpu")))
    assert asked == {"train", "validation"}


def test_no_graph_grows_through_the_teacher(build, digits):
    """Published code runs it with gradients on: what its blocks gave leads nowhere here."""
    network = headed(build("cnn8"))
    seen = []
    hooks = [
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].requires_grad))
        for head in network.heads.values()
    ]
    list(train_heads(network, digits(), FAST, seed=0, device=torch.device("cpu")))
    assert len(hooks) == 4
    assert seen
    assert not any(seen)


def test_resumed_training_ends_with_the_same_bits(build, digits):
    whole, saves, cpu = headed(build("cnn8")), MemoryCheckpointer(), torch.device("cpu")
    wanted = list(train_heads(whole, digits(), FAST, seed=0, device=cpu, checkpointer=saves))
    resumed = headed(build("cnn8"), seed=9)
    begin = MemoryCheckpointer(initial=saves.saved[1])
    found = list(train_heads(resumed, digits(), FAST, seed=0, device=cpu, checkpointer=begin))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    timed = ("seconds",)
    for one, other in zip(wanted, found, strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {
            k: v for k, v in other.items() if k not in timed
        }


def test_without_a_validation_split_the_last_epoch_counts(build, digits):
    network = headed(build("cnn8"))
    data = digits(validation=0.0)
    reports = list(train_heads(network, data, FAST, seed=0, device=torch.device("cpu")))
    assert not [name for name in reports[-1] if "val_" in name]


def test_a_rate_that_is_too_large_is_told(build, digits):
    training = Training.parse({"epochs": 3, "batch_size": 32, "lr": 1e30})
    with pytest.raises(Diverged, match="smaller lr"):
        list(
            train_heads(
                headed(build("cnn8")), digits(), training, seed=0, device=torch.device("cpu")
            )
        )
