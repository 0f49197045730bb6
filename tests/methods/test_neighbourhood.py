"""Neighbourhoods: each learns alone, whoever learns beside it; their scores are what they say."""

import copy
import math

import pytest
import torch
from torch import nn

from methods.core.data.config import DataConfig
from methods.core.data.dataset import open_data
from methods.core.neighbourhood import Distillation, Neighbourhood, recalibrate
from methods.core.settings import Training
from spaces.networks.resnet import ResNet

CPU = torch.device("cpu")
SAME = nn.Identity()


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig.parse({"source": "digits", "limit": 300, "validation": 0.2}))


@pytest.fixture(scope="module")
def teacher(data):
    torch.manual_seed(0)
    network = ResNet(depth=14, width=0.5).build(data.shape, data.classes)
    network = network.normalised_with(data.mean, data.std)
    recalibrate(network, data, CPU)
    return network


def small(start, stop, seed=0, inputs=8, outputs=8):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    )
    return Neighbourhood(start, stop, module, SAME, SAME, SAME)


def learn(teacher, data, some, epochs=2, **changes):
    settings = {"epochs": epochs, "batch_size": 32, "lr": 0.02, **changes}
    learning = Distillation(
        teacher,
        some,
        data,
        Training(**settings),
        inputs="data",
        seed=0,
        device=CPU,
    )
    return learning, [learning.run_epoch() for _ in range(epochs)]


def test_together_is_as_alone(teacher, data):
    places = [(1, 2), (1, 3), (2, 3)]
    together = [small(*place, seed=i) for i, place in enumerate(places)]
    learning, reports = learn(teacher, data, together)
    scores = learning.scores()
    for i, place in enumerate(places):
        alone = small(*place, seed=i)
        learning, told = learn(teacher, data, [alone])
        for a, b in zip(alone.module.parameters(), together[i].module.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        assert [t[0]["train_loss"] for t in told] == pytest.approx(
            [t[i]["train_loss"] for t in reports], rel=1e-5
        )
        assert learning.scores()[0] == pytest.approx(scores[i], rel=1e-5)


def test_it_learns(teacher, data):
    _, reports = learn(teacher, data, [small(1, 2)], epochs=4)
    losses = [told[0]["train_loss"] for told in reports]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.7 * losses[0]


def test_the_teachers_own_blocks_score_nothing(teacher, data):
    kept = copy.deepcopy(teacher.span(2, 4)).requires_grad_(False)
    learning, reports = learn(teacher, data, [Neighbourhood(2, 4, kept, SAME, SAME, SAME)])
    assert [told[0]["train_loss"] for told in reports] == pytest.approx([0.0, 0.0], abs=1e-10)
    (score,) = learning.scores()
    assert score["nmse"] == pytest.approx(0.0, abs=1e-10)
    assert score["kl"] == pytest.approx(0.0, abs=1e-6)
    assert score["accuracy_drop"] == 0.0
    for ours, theirs in zip(kept.buffers(), teacher.span(2, 4).buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_scores_are_those_of_the_swapped_network(teacher, data):
    each = small(2, 3)
    learning, _ = learn(teacher, data, [each])
    (score,) = learning.scores()
    swapped = teacher.swap(2, 3, each.module).eval()
    batch = next(data.batches("validation", batch_size=1000, device="cpu"))
    with torch.no_grad():
        ours, theirs = swapped(batch.images).logits, teacher(batch.images).logits
        features = teacher(batch.images).features
        given, wanted = features["stage1_1"], features["stage1_2"]
        error = (each.module(given) - wanted).square().mean() / wanted.square().mean()
    p, q = theirs.log_softmax(1), ours.log_softmax(1)
    assert score["nmse"] == pytest.approx(error.item(), rel=1e-4)
    expected = nn.functional.kl_div(q, p, log_target=True, reduction="batchmean").item()
    assert score["kl"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    right = (ours.argmax(1) == batch.labels).float().mean().item()
    assert score["val_accuracy"] == pytest.approx(right)


def test_one_that_diverges_leaves_the_others_alone(teacher, data):
    wild = small(1, 2)
    with torch.no_grad():
        wild.module[0].weight.fill_(math.inf)
    quiet, alone = small(2, 3, seed=1), small(2, 3, seed=1)
    _, reports = learn(teacher, data, [wild, quiet])
    learn(teacher, data, [alone])
    assert all(math.isnan(told[0]["train_loss"]) for told in reports)
    assert torch.allclose(quiet.module[0].weight, alone.module[0].weight, atol=1e-6)


def test_it_goes_on_where_it_was_stopped(teacher, data):
    whole = small(1, 2)
    learn(teacher, data, [whole], epochs=4)
    settings = Training(epochs=4, batch_size=32, lr=0.02)
    args = {"inputs": "data", "seed": 0, "device": CPU}
    first = Distillation(teacher, [small(1, 2)], data, settings, **args)
    first.run_epoch()
    first.run_epoch()
    later = small(1, 2, seed=9)
    second = Distillation(teacher, [later], data, settings, **args)
    second.load(first.state())
    second.run_epoch()
    second.run_epoch()
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, later.module.state_dict()[name])


def test_noise_needs_no_image(teacher, data):
    each = small(1, 2)
    learning = Distillation(
        teacher,
        [each],
        data,
        Training(epochs=3, batch_size=32, lr=0.02),
        inputs="noise",
        seed=0,
        device=CPU,
    )
    losses = [learning.run_epoch()[0]["train_loss"] for _ in range(3)]
    assert losses[-1] < losses[0]


def test_recalibrated_statistics_are_the_batches_own(data):
    torch.manual_seed(0)
    network = ResNet(depth=8, width=0.25).build(data.shape, data.classes)
    recalibrate(network, data, CPU, batches=1)
    batch = next(data.train_batches(batch_size=256, epoch=0, seed=0, device="cpu"))
    with torch.no_grad():
        x = (batch.images - network.mean) / network.std
        x = network.blocks["stem"].conv(x)
    stem = network.blocks["stem"].bn
    assert torch.allclose(stem.running_mean, x.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(stem.running_var, x.var(dim=(0, 2, 3)), rtol=1e-4)
    assert stem.momentum == 0.1
    assert not network.training
