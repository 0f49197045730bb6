"""Frozen teachers: untouched, exact, and asked no more often than needed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from stillhouse.methods.core.runtime import tensor_cache
from stillhouse.methods.core.runtime.folding import fold_batch_norm
from stillhouse.methods.core.runtime.tensor_cache import TensorCache
from stillhouse.methods.core.training import teachers
from stillhouse.methods.core.training.teachers import FrozenTeacher, Teachers
from stillhouse.spaces.modules.network import Network


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(teachers, "PROCESS_CACHE", TensorCache(tensor_cache.MAX_CACHE_BYTES))


def with_statistics(network):
    """As after training: batch norm that does something."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(shape, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(shape, generator=generator) * 0.1)
    return network.eval()


def batch_norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


SMALL = ["resnet8", "cnn10", "wrn-10-1", "vgg8", "mobilenet_v2_x0_5", "lenet5", "tv_resnet18"]


@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_no_blocks_output(build, name):
    network = with_statistics(build(name, shape=(3, 32, 32)))
    images = torch.rand(4, 3, 32, 32)
    fast = fold_batch_norm(network, torch.rand(4, 3, 32, 32))
    assert batch_norms(fast) == 0 or name.startswith("wrn"), "all of it can be folded"
    assert batch_norms(fast) < batch_norms(network) or name == "lenet5"
    with torch.no_grad():
        one, other = network(images), fast(images)
    assert list(one.features) == list(other.features)
    for block in one.features:
        expected = one.features[block]
        atol = 1e-4 * expected.abs().max().item()
        torch.testing.assert_close(other.features[block], expected, rtol=1e-3, atol=atol)


class Forked(nn.Module):
    """Control flow that depends on values, which tracing cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.bn(self.conv(x))
        return y if y.mean() > 0 else -y


class Counted(nn.Module):
    """Behaves otherwise when traced, so that its folded form would be wrong."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.bn(self.conv(x))
        return y if isinstance(y, torch.Tensor) else y * 2.0


def head():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 10))


def test_a_block_that_cannot_be_traced_runs_as_it_is():
    network = with_statistics(Network({"odd": Forked(), "head": head()}))
    fast = fold_batch_norm(network, torch.rand(4, 1, 8, 8))
    assert batch_norms(fast) == 1
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(fast(x, ()).logits, network(x, ()).logits)


def test_a_wrong_folding_is_never_used_and_always_said():
    network = with_statistics(Network({"odd": Counted(), "head": head()}))
    with pytest.warns(UserWarning, match="block 'odd' .* without folded batch norm"):
        fast = fold_batch_norm(network, torch.rand(4, 1, 8, 8))
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(fast(x, ()).logits, network(x, ()).logits)


def teachers_of(data, *networks, dtype=torch.float32, keys=None):
    sample = next(iter(data.batches("train", batch_size=8, device="cpu"))).images
    keys = keys or [None] * len(networks)
    frozen = [FrozenTeacher(n, key) for n, key in zip(networks, keys, strict=True)]
    return Teachers(frozen, data, sample, dtype)


def first_batch(data, epoch=0):
    return next(iter(data.train_batches(batch_size=32, epoch=epoch, seed=5, device="cpu")))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_itself_is_never_touched(digits, build, training):
    data, network = digits(), with_statistics(build("resnet8")).train(training)
    before = copy.deepcopy(network.state_dict())
    taught = teachers_of(data, network)
    for batch in data.train_batches(batch_size=32, epoch=0, seed=0, device="cpu"):
        (said,) = taught.outputs(batch, 0)
        assert not said.logits.requires_grad
    taught.predicted_classes("validation")
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert network.training is training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(p.requires_grad for n in taught.originals for p in n.parameters())
    assert not any(n.training for n in taught.originals)


VIEWS = [{}, {"augment": {"crop": 1, "views": 2}}, {"augment": {"crop": 1}}]


@pytest.mark.parametrize("settings", VIEWS)
def test_what_it_says_is_about_the_images_of_the_batch(digits, build, settings):
    data, network = digits(**settings), with_statistics(build("resnet8"))
    taught = teachers_of(data, network)
    for epoch in range(3):
        batch = first_batch(data, epoch)
        (said,) = taught.outputs(batch, epoch)
        with torch.no_grad():
            expected = network(batch.images, ()).logits
        torch.testing.assert_close(said.logits, expected, rtol=1e-3, atol=1e-4)


def test_features_come_with_the_same_logits(digits, build):
    data, network = digits(), with_statistics(build("resnet8"))
    taught, batch = teachers_of(data, network), first_batch(data)
    (said,) = taught.outputs(batch, 0, lambda _: ["stage1_1", "stage2_1"])
    with torch.no_grad():
        expected = network(batch.images, ["stage1_1", "stage2_1"])
    assert said.features.keys() == expected.features.keys()
    for name, value in expected.features.items():
        torch.testing.assert_close(said.features[name], value, rtol=1e-3, atol=1e-4)
        assert not said.features[name].requires_grad


def counted(network):
    """The network, and a list that grows by the images of each of its passes."""
    passes: list[int] = []
    network.blocks["head"].register_forward_pre_hook(lambda *call: passes.append(len(call[1][0])))
    return network, passes


def drain(data, taught, epochs, taps=lambda _: ()):
    for epoch in range(epochs):
        for batch in data.train_batches(batch_size=32, epoch=epoch, seed=0, device="cpu"):
            taught.outputs(batch, epoch, taps)


@pytest.mark.parametrize(
    ("settings", "taps", "views"),
    [
        ({}, (), 1),
        ({"augment": {"crop": 1, "views": 3}}, (), 3),
        ({"augment": {"crop": 1}}, (), 6),
        ({}, ("stage1_1",), 6),
    ],
)
def test_each_view_is_looked_at_once_where_views_repeat(digits, build, settings, taps, views):
    data = digits(**settings)
    network, passes = counted(with_statistics(build("resnet8")))
    taught = teachers_of(data, network)
    passes.clear()
    drain(data, taught, 6, lambda _: taps)
    assert sum(passes) == views * data.facts.sizes["train"]


def test_a_key_keeps_outputs_for_later_runs_on_the_same_data(digits, build):
    data = digits()
    network, passes = counted(with_statistics(build("resnet8")))
    drain(data, teachers_of(data, network, keys=["weights"]), 1)
    passes.clear()
    again = teachers_of(data, network, keys=["weights"])
    passes.clear()
    drain(data, again, 1)
    assert not passes
    for other, dtype in [(digits(split_seed=1), torch.float32), (data, torch.bfloat16)]:
        taught = teachers_of(other, network, dtype=dtype, keys=["weights"])
        passes.clear()
        drain(other, taught, 1)
        assert sum(passes) == other.facts.sizes["train"], "other images, or another format"


def test_without_a_key_nothing_outlives_the_run(digits, build):
    data = digits()
    one, other = (with_statistics(build("cnn2", seed=seed)) for seed in (0, 1))
    first = teachers_of(data, one).outputs(first_batch(data), 0)
    second = teachers_of(data, other).outputs(first_batch(data), 0)
    assert not torch.equal(first[0].logits, second[0].logits)


def test_teachers_are_told_apart(digits, build):
    data = digits()
    networks = [with_statistics(build("cnn2", seed=seed)) for seed in (0, 1)]
    for keys in ([None, None], ["a", "b"]):
        one, other = teachers_of(data, *networks, keys=keys).outputs(first_batch(data), 0)
        assert not torch.equal(one.logits, other.logits)


def test_frozen_copies_are_made_once(build):
    frozen = FrozenTeacher(build("resnet8"))
    sample = torch.rand(4, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frozen.device_copies(sample)[1] is frozen.device_copies(sample)[1]


def test_the_least_recently_used_goes_first():
    held = TensorCache(limit=3 * 40)
    made = []

    def ask(key, size=10):
        return held.get(key, lambda: made.append(key) or torch.full((size,), float(key)))

    for key in (1, 2, 3, 1, 4):
        assert ask(key).tolist() == [key] * 10
    assert made == [1, 2, 3, 4]
    assert held.num_bytes == 120
    ask(2)
    assert made == [1, 2, 3, 4, 2], "2 was the oldest when 4 came"
    ask(9, size=1000)
    ask(9, size=1000)
    assert made[-2:] == [9, 9], "larger than all there is: handed out, never kept"
    ask(1)
    assert made[-1] == 9, "and nothing had to go for it"
