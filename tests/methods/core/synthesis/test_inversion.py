"""Inversion: what images descend, against NumPy, and what comes of it."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.data.replaced_train_split import ReplacedTrainSplit
from stillhouse.methods.core.synthesis.inversion import (
    Inversion,
    inversion_loss,
    invert,
    statistics_gap,
    total_variation,
)
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network
from tests.support.checkpointers import MemoryCheckpointer

SHAPE = (1, 8, 8)
FEW = Inversion(images=7, batch_size=4, steps=3)


def made(teacher, how=FEW, saves=None, seed=0):
    """The reports, and the images that were returned."""
    running = invert(
        teacher, SHAPE, 10, how, seed=seed, device=torch.device("cpu"), checkpointer=saves
    )
    reports = []
    while True:
        try:
            reports.append(next(running))
        except StopIteration as end:
            return reports, end.value


def normed(channels=3, seed=0):
    """A batch norm with running statistics drawn at random."""
    norm, chance = nn.BatchNorm2d(channels).eval(), np.random.RandomState(seed)
    norm.running_mean.copy_(torch.from_numpy(chance.normal(size=channels)))
    norm.running_var.copy_(torch.from_numpy(chance.uniform(0.5, 2.0, size=channels)))
    return norm


def test_the_gap_of_statistics_is_that_of_the_paper():
    norm, x = normed().double(), np.random.RandomState(1).normal(size=(5, 3, 4, 6))
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    expected = np.linalg.norm(mean - norm.running_mean.numpy())
    expected += np.linalg.norm(variance - norm.running_var.numpy())
    assert statistics_gap(torch.from_numpy(x), norm).item() == pytest.approx(expected, rel=1e-12)


def test_a_batch_with_the_running_statistics_has_no_gap():
    norm, x = normed().double(), torch.randn(16, 3, 4, 4, dtype=torch.float64)
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
    wanted = [s.view(1, -1, 1, 1) for s in (norm.running_var, norm.running_mean)]
    x = (x - mean) / variance.sqrt() * wanted[0].sqrt() + wanted[1]
    assert statistics_gap(x, norm).item() == pytest.approx(0.0, abs=1e-12)


def test_variation_is_the_mean_step_to_a_neighbour():
    x = np.random.RandomState(0).normal(size=(2, 3, 5, 4))
    expected = np.abs(np.diff(x, axis=2)).mean() + np.abs(np.diff(x, axis=3)).mean()
    assert total_variation(torch.from_numpy(x)).item() == pytest.approx(expected, rel=1e-12)
    assert total_variation(torch.ones(2, 3, 5, 4)).item() == 0.0
    assert total_variation(torch.ones(2, 3, 1, 1)).item() == 0.0


def test_the_sum_counts_every_norm_once_and_leaves_nothing_behind(build):
    """Against a pass in which every batch norm is asked for what enters it."""
    teacher = build("resnet8").eval().double()
    norms = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    x, labels = torch.randn(6, *SHAPE, dtype=torch.float64), torch.arange(6)
    how = Inversion(norms=0.7, variation=0.2, l2=0.3)
    total, parts = inversion_loss(teacher, x, labels, how)
    assert not any(norm._forward_pre_hooks for norm in norms)
    entered = {}
    hooks = [n.register_forward_hook(lambda m, i, _: entered.update({m: i[0]})) for n in norms]
    logits = teacher(x).logits
    for hook in hooks:
        hook.remove()
    gaps = sum(statistics_gap(entered[norm], norm).item() for norm in norms)
    assert parts["norms"].item() == pytest.approx(gaps, rel=1e-9)
    cross = -logits.log_softmax(dim=1)[torch.arange(6), labels].mean().item()
    rest = 0.2 * total_variation(x).item() + 0.3 * x.square().mean().item()
    assert total.item() == pytest.approx(cross + 0.7 * gaps + rest, rel=1e-9)


def test_images_come_to_be_named_by_their_labels(build):
    teacher = build("cnn4").train()
    for _ in range(20):
        teacher(torch.rand(64, *SHAPE))
    before = copy.deepcopy(teacher.state_dict())
    how = Inversion(images=20, batch_size=20, steps=60, lr=0.2, norms=0.01)
    (report,), (images, labels) = made(teacher, how)
    assert (images.dtype, images.shape) == (torch.uint8, (20, *SHAPE))
    assert torch.equal(labels.bincount(), torch.full((10,), 2))
    assert report["teacher_accuracy"] > 0.8
    noise = torch.rand(20, *SHAPE)
    start, _ = inversion_loss(teacher, (noise - teacher.mean) / teacher.std, labels, how)
    assert report["loss"] < 0.8 * start.item()
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_same_seed_makes_the_same_images_also_after_a_break(build):
    teacher = build("cnn2")
    reports, whole = made(teacher)
    assert [report["epoch"] for report in reports] == [1, 2]
    memory = MemoryCheckpointer()
    list(
        itertools.islice(
            invert(
                teacher, SHAPE, 10, FEW, seed=0, device=torch.device("cpu"), checkpointer=memory
            ),
            1,
        )
    )
    again, resumed = made(teacher, saves=memory)
    assert torch.equal(whole.images, resumed.images)
    assert [r["loss"] for r in again] == [r["loss"] for r in reports]
    assert not torch.equal(whole.images, made(teacher, seed=1)[1].images)


def test_a_teacher_without_batch_norm_is_refused():
    plain = Network({"head": nn.Sequential(nn.Flatten(), nn.Linear(64, 10))})
    with pytest.raises(ConfigError, match="teacher: has no batch norm"):
        made(plain)


# Training on what was made


def test_made_data_trains_on_the_images_and_measures_on_the_real_ones(digits):
    data = digits()
    images = torch.randint(0, 256, (30, *SHAPE), dtype=torch.uint8)
    labels = torch.arange(30) % 10
    shown = ReplacedTrainSplit(data, images, labels, "a")
    batch = next(shown.train_batches(batch_size=30, epoch=0, seed=0, device="cpu"))
    torch.testing.assert_close(batch.images, images[batch.indices] / 255)
    assert torch.equal(batch.labels, labels[batch.indices])
    assert (shown.steps(16), shown.facts.sizes["train"]) == (2, 30)
    one, other = (next(d.batches("validation", batch_size=50, device="cpu")) for d in (data, shown))
    assert torch.equal(one.images, other.images)
    assert data.facts.sizes["train"] == 200


def test_floats_are_shown_as_they_are(digits):
    images = torch.rand(12, *SHAPE)
    shown = ReplacedTrainSplit(digits(), images, torch.arange(12) % 10, "a")
    batch = next(shown.view_batches(0, batch_size=12, device="cpu"))
    assert torch.equal(batch.images.contiguous(), images)


def test_augmentation_is_that_of_the_data_set(digits):
    images, labels = torch.rand(12, *SHAPE), torch.arange(12) % 10
    shown = ReplacedTrainSplit(digits(augment={"flip": True, "views": 1}), images, labels, "a")
    batch = next(shown.view_batches(0, batch_size=12, device="cpu"))
    flipped = (batch.images == images.flip(3)).flatten(1).all(dim=1)
    assert 0 < flipped.sum() < 12
    assert torch.equal(batch.images[~flipped].contiguous(), images[~flipped])


def test_what_a_teacher_says_of_one_set_is_not_taken_for_another(digits, build):
    """Its outputs are kept by the images' name, not by the data set's alone."""
    data, labels = digits(), torch.arange(200) % 10
    teacher = FrozenTeacher(build("cnn2").eval(), "test-made-data")
    sets = [
        data,
        *(ReplacedTrainSplit(data, torch.rand(200, *SHAPE), labels, n) for n in ("a", "b")),
    ]
    said = []
    for each in sets:
        batch = next(each.train_batches(batch_size=8, epoch=0, seed=0, device="cpu"))
        taught = Teachers([teacher], each, batch.images, torch.float32)
        said.append(taught.outputs(batch, 0)[0].logits)
        torch.testing.assert_close(
            said[-1], teacher.network(batch.images).logits, atol=1e-4, rtol=1e-4
        )
    assert len({each.fingerprint for each in sets}) == 3


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, 1, 7, 8), [0, 1, 2, 3], "images need .*found \\[4, 1, 7, 8\\] with 4 labels"),
        ((4, 1, 8, 8), [0, 1, 2], "with 3 labels"),
        ((4, 1, 8, 8), [0, 1, 2, 10], "labels from 0 to 9"),
    ],
)
def test_images_that_do_not_fit_are_refused(digits, shape, labels, message):
    with pytest.raises(ConfigError, match=message):
        ReplacedTrainSplit(digits(), torch.zeros(shape), torch.tensor(labels), "a")
