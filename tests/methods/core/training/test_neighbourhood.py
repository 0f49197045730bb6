"""Neighbourhoods: each learns alone, whoever learns beside it; their scores are what they say."""

import copy
import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from stillhouse.methods.core.config.training import Training
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.neighbourhood import (
    Neighbourhood,
    NeighbourhoodTraining,
    recalibrate_batch_norm,
)
from stillhouse.methods.core.training.synthetic_inputs import (
    batch_norms,
    blocks_with_batch_statistics,
    gaussian_images,
)
from stillhouse.methods.core.training.teachers import FrozenTeacher
from stillhouse.methods.core.training.train import train
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.networks import resolve
from stillhouse.spaces.networks.resnet import ResNet

CPU = torch.device("cpu")
SAME = nn.Identity()
EVERY = ("data", "noise", "statistics")
DATA_FREE = ("noise", "statistics")


@pytest.fixture(scope="module")
def data():
    return open_data(DataConfig.parse({"source": "digits", "limit": 300, "validation": 0.2}))


@pytest.fixture(scope="module")
def teacher(data):
    torch.manual_seed(0)
    network = ResNet(depth=14, width=0.5).build(data.shape, data.classes)
    network = network.with_normalisation(data.mean, data.std)
    recalibrate_batch_norm(network, data, CPU)
    return network


def small(start, stop, seed=0, inputs=8, outputs=8):
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    )
    return Neighbourhood(start, stop, module, SAME, SAME, SAME)


def learn(teacher, data, some, epochs=2, inputs="data", **changes):
    settings = {"epochs": epochs, "batch_size": 32, "lr": 0.02, **changes}
    learning = NeighbourhoodTraining(
        teacher, some, data, Training(**settings), inputs=inputs, seed=0, device=CPU
    )
    return learning, [learning.run_epoch() for _ in range(epochs)]


@pytest.mark.parametrize("inputs", EVERY)
def test_together_is_as_alone(teacher, data, inputs):
    places = [(1, 2), (1, 3), (2, 3)]
    together = [small(*place, seed=i) for i, place in enumerate(places)]
    learning, reports = learn(teacher, data, together, inputs=inputs)
    scores = learning.scores()
    for i, place in enumerate(places):
        alone = small(*place, seed=i)
        learning, told = learn(teacher, data, [alone], inputs=inputs)
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


@pytest.mark.parametrize("inputs", EVERY)
def test_the_teachers_own_blocks_score_nothing(teacher, data, inputs):
    """So whatever goes in, what is asked for at the other end is the teacher's own function."""
    kept = copy.deepcopy(teacher.span(2, 4)).requires_grad_(False)
    own = Neighbourhood(2, 4, kept, SAME, SAME, SAME)
    learning, reports = learn(teacher, data, [own, small(1, 3)], inputs=inputs)
    reports = [told[:1] for told in reports]
    assert [told[0]["train_loss"] for told in reports] == pytest.approx([0.0, 0.0], abs=1e-10)
    score = learning.scores()[0]
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


@pytest.mark.parametrize("inputs", EVERY)
def test_it_goes_on_where_it_was_stopped(teacher, data, inputs):
    whole = small(1, 2)
    learn(teacher, data, [whole], epochs=4, inputs=inputs)
    settings = Training(epochs=4, batch_size=32, lr=0.02)
    args = {"inputs": inputs, "seed": 0, "device": CPU}
    first = NeighbourhoodTraining(teacher, [small(1, 2)], data, settings, **args)
    first.run_epoch()
    first.run_epoch()
    later = small(1, 2, seed=9)
    second = NeighbourhoodTraining(teacher, [later], data, settings, **args)
    second.load(first.state())
    second.run_epoch()
    second.run_epoch()
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, later.module.state_dict()[name])


@pytest.mark.parametrize("inputs", DATA_FREE)
def test_it_learns_without_images(teacher, data, inputs):
    _, reports = learn(teacher, data, [small(1, 2)], epochs=3, inputs=inputs)
    assert reports[-1][0]["train_loss"] < 0.8 * reports[0][0]["train_loss"]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A set of 60 grey images of chance as a Parquet file: ``pixels(seed)``."""

    def written(seed, **more):
        random, rows = np.random.default_rng(seed), []
        for _ in range(60):
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
            rows.append(buffer.getvalue())
        path = tmp_path_factory.mktemp("pixels") / "all.parquet"
        pq.write_table(pa.table({"image": rows, "label": [i % 10 for i in range(60)]}), path)
        source = {"parquet": {"train": path.name, "test": path.name}}
        normalise = {"mean": [0.5], "std": [0.25]}
        told = {"source": source, "root": str(path.parent), "normalise": normalise}
        return open_data(DataConfig.parse({**told, "validation": 0.2, **more}))

    return written


@pytest.mark.parametrize("inputs", EVERY)
def test_pixels_matter_only_where_data_is_looked_at(teacher, pixels, inputs):
    found = []
    for seed in (1, 2):
        each = small(1, 2)
        learn(teacher, pixels(seed), [each], inputs=inputs, batch_size=16)
        found.append(each.module.state_dict())
    equal = [torch.equal(a, b) for a, b in zip(*(f.values() for f in found), strict=True)]
    assert all(equal) == (inputs != "data")


@pytest.mark.parametrize("noise", [False, True])
def test_a_student_taught_on_noise_knows_no_pixel(teacher, pixels, noise):
    """End to end on noise, which neighbourhoods on noise are held against."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(0)
        student = ResNet(depth=8, width=0.25).build((1, 8, 8), 10)
        data = pixels(seed, augment={"noise": noise})
        objective = Objective.parse({"soft_targets": {}})
        settings = Training(epochs=2, batch_size=16, lr=0.02)
        list(
            train(student, [FrozenTeacher(teacher)], objective, data, settings, seed=0, device=CPU)
        )
        found.append(student.state_dict())
    equal = [torch.equal(a, b) for a, b in zip(*(f.values() for f in found), strict=True)]
    assert all(equal) == noise


def test_drawn_activations_have_the_moments_that_norms_remember(teacher):
    """Mean beta and standard deviation |gamma| in every channel, whatever these are."""
    teacher, found = copy.deepcopy(teacher), []
    torch.manual_seed(1)
    for norm in batch_norms(teacher):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    before = copy.deepcopy(teacher.state_dict())
    drawing = blocks_with_batch_statistics(teacher, 5)

    def look(norm, _, output):
        mean, std = output.mean(dim=(0, 2, 3)), output.std(dim=(0, 2, 3), unbiased=False)
        found.append((norm.bias - mean).abs().max().item())
        found.append((norm.weight.abs() - std).abs().max().item())

    for norm in batch_norms(drawing):
        norm.register_forward_hook(look)
    with torch.no_grad():
        drawing(torch.randn(64, 1, 8, 8))
    assert len(found) == 2 * len(batch_norms(drawing)) > 16
    assert max(found) < 2e-3
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gaussian_images_are_normal_after_the_networks_normalisation(teacher):
    torch.manual_seed(0)
    images = gaussian_images(torch.empty(400, 1, 8, 8), teacher)
    x = (images - teacher.mean) / teacher.std
    assert x.mean().item() == pytest.approx(0.0, abs=0.02)
    assert x.std().item() == pytest.approx(1.0, abs=0.02)


def test_statistics_need_batch_norm(data):
    torch.manual_seed(0)
    plain = resolve("lenet5")[1].build((1, 28, 28), 10)
    with pytest.raises(ConfigError, match="has none; use noise or data") as caught:
        learn(plain, data, [small(1, 2)], inputs="statistics")
    assert caught.value.problems[0].path == "inputs"


def test_recalibrated_statistics_are_the_batches_own(data):
    torch.manual_seed(0)
    network = ResNet(depth=8, width=0.25).build(data.shape, data.classes)
    recalibrate_batch_norm(network, data, CPU, batches=1)
    batch = next(data.train_batches(batch_size=256, epoch=0, seed=0, device="cpu"))
    with torch.no_grad():
        x = (batch.images - network.mean) / network.std
        x = network.blocks["stem"].conv(x)
    stem = network.blocks["stem"].bn
    assert torch.allclose(stem.running_mean, x.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(stem.running_var, x.var(dim=(0, 2, 3)), rtol=1e-4)
    assert stem.momentum == 0.1
    assert not network.training
