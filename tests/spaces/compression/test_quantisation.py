"""Quantised layers: what they compute, by hand and by NumPy, what they learn by, what they keep."""

import numpy as np
import pytest
import torch
from torch import nn

from stillhouse.methods.core.runtime.folding import fold_batch_norm, fuse_blocks
from stillhouse.spaces.compression.layer_sizes import resize_layers, weight_shapes
from stillhouse.spaces.compression.pruning import prune_channels
from stillhouse.spaces.compression.quantisation import (
    bypass_quantisation,
    calibration,
    check_quantisable,
    exportable,
    insert_quantised_layers,
    layers_feeding_sums,
    packed_state_dict,
    quantise,
    quantised_layers,
)
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec

SHAPES = {"lenet5": (1, 28, 28), "resnet8": (3, 16, 16), "mobilenet_v2_x0_5": (3, 32, 32)}


def images(name, count=4):
    return torch.rand(count, *SHAPES[name], generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def quantised(name, bits=8):
    """A network with batch norm folded and ranges from a few images; the blocks folded; the
    layers whose output is rounded too."""
    torch.manual_seed(0)
    plain = NetworkSpec.parse(name).build(SHAPES[name], 10).eval()
    network = fold_batch_norm(plain, images(name))
    changed = [n for n in network.names if network.blocks[n] is not plain.blocks[n]]
    leaving = layers_feeding_sums(network)
    quantise(network, bits, leaving)
    with calibration(network):
        network(images(name), ())
    return network, changed, leaving


def layers():
    torch.manual_seed(0)
    first, last = nn.Conv2d(2, 3, 3), nn.Linear(3, 4)
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    return Network({"first": first, "head": head}).eval()


@pytest.mark.parametrize(("bits", "highest"), [(8, 127), (4, 7), (2, 1)])
def test_a_weight_is_rounded_by_its_channels_largest(bits, highest):
    network = layers()
    whole = {path: network.get_submodule(path).weight.detach().numpy().copy() for path in PATHS}
    quantise(network, bits)
    for path, layer in quantised_layers(network):
        w = whole[path].reshape(len(whole[path]), -1)
        scale = np.abs(w).max(axis=1, keepdims=True) / np.float32(highest)
        wanted = np.round(w / scale)
        assert np.array_equal(layer.integer_weight().numpy().reshape(w.shape), wanted)
        found = layer.dequantised_weight().detach().numpy().reshape(w.shape)
        np.testing.assert_array_equal(found, (wanted * scale).astype(np.float32))
        assert np.abs(found - w).max() <= scale.max() / 2 * 1.0001


PATHS = ("blocks.first", "blocks.head.3")


def test_ranges_are_those_of_what_enters():
    network = Network({"head": nn.Sequential(nn.Flatten(), nn.Linear(2, 1))}).eval()
    quantise(network, 8)
    with calibration(network):
        for low, high in ((0.0, 2.0), (-1.0, 4.1)):
            network(torch.tensor([low, high]).view(1, 2, 1, 1), ())
    (_, layer), *_ = quantised_layers(network)
    assert layer.enters.scale.item() == pytest.approx(5.1 / 255)
    assert layer.enters.zero.item() == -128 + round(1.0 / (5.1 / 255)) == -78
    given = torch.tensor([[-3.0, 0.0], [0.013, 9.0]])
    entering = np.clip(np.round(given.numpy() / (5.1 / 255)) - 78, -128, 127)
    wanted = (entering + 78) * (5.1 / 255) @ layer.dequantised_weight().detach().numpy().T
    wanted += layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(given).detach().numpy(), wanted, rtol=1e-5)
    assert entering[0, 1] == -78  # 0 is an integer of its own


def test_what_is_summed_up_is_rounded_before():
    network, *_ = quantised("resnet8")
    rounded = [path for path, layer in quantised_layers(network) if layer.leaves]
    wanted = {f"blocks.stage{s}_1.{part}" for s in (1, 2, 3) for part in ("conv2", "shortcut.0")}
    assert set(rounded) == wanted - {"blocks.stage1_1.shortcut.0"}
    layer = network.get_submodule("blocks.stage2_1.conv2")
    with torch.no_grad():
        integers = layer(torch.rand(2, 32, 8, 8)) / layer.leaves.scale
    assert (integers - integers.round()).abs().max() < 1e-3
    assert integers.abs().max() <= 255
    plain, *_ = quantised("lenet5")
    assert not any(layer.leaves for _, layer in quantised_layers(plain))


def test_the_gradient_is_1_within_the_range_and_0_outside():
    network = layers()
    quantise(network, 8)
    (_, layer), *_ = quantised_layers(network)
    layer.enters.set_range(torch.tensor([0.01]), torch.tensor([0]))  # -1.28 .. 1.27
    with torch.no_grad():
        layer.scale.mul_(0.5)  # half of every channel's range is cut off
    inside = layer.weight.detach().abs() <= 127.5 * layer.scale.view(-1, 1, 1, 1)
    given = torch.tensor([-2.0, -1.2, 0.004, 1.2, 1.9]).repeat(10)[:50]
    x = given.view(1, 2, 5, 5).clone().requires_grad_()
    entering = layer.enters(x)
    entering.sum().backward()
    assert torch.equal(x.grad, ((x > -1.285) & (x < 1.275)).float())
    layer.dequantised_weight().sum().backward()
    assert torch.equal(layer.weight.grad, inside.float())
    assert 0 < inside.float().mean() < 1


def test_scales_follow_the_weight_in_training_alone():
    network = layers()
    quantise(network, 8)
    (_, layer), *_ = quantised_layers(network)
    before = layer.scale.clone()
    with torch.no_grad():
        layer.weight.mul_(2)
    network(torch.rand(1, 2, 5, 5), ())
    assert torch.equal(layer.scale, before)
    network.train()(torch.rand(1, 2, 5, 5), ())
    assert torch.equal(layer.scale, 2 * before)


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_kept_computes_the_same_bit_for_bit(name, bits):
    network, changed, leaving = quantised(name, bits)
    kept = {k: v.clone() for k, v in packed_state_dict(network).items()}
    weights = [kept[f"{path}.weight"] for path, _ in quantised_layers(network)]
    assert {w.dtype for w in weights} == {torch.int8 if bits > 4 else torch.uint8}
    again = fuse_blocks(NetworkSpec.parse(name).build(SHAPES[name], 10).eval(), changed)
    insert_quantised_layers(again, bits, leaving)
    again.load_state_dict(kept)
    with torch.no_grad():
        told = network(images(name), ()).logits
        assert torch.equal(again.eval()(images(name), ()).logits, told)
        for as_operators in (False, True):
            leaving = exportable(network, as_operators)
            assert torch.equal(leaving(images(name), ()).logits, told)
    assert all(torch.equal(tensor, kept[k]) for k, tensor in packed_state_dict(again).items())
    assert compute_costs(network, SHAPES[name]).bytes == sum(
        t.numel() * t.element_size() for t in kept.values()
    )


def test_as_floats_nothing_is_rounded():
    network, *_ = quantised("resnet8", 2)
    torch.manual_seed(0)
    plain = NetworkSpec.parse("resnet8").build(SHAPES["resnet8"], 10).eval()
    with torch.no_grad(), bypass_quantisation(network):
        told = network(images("resnet8"), ()).logits
    torch.testing.assert_close(told, plain(images("resnet8"), ()).logits)


@pytest.mark.parametrize("name", SHAPES)
def test_channels_of_a_quantised_network_are_pruned(name):
    network, changed, leaving = quantised(name)
    before = compute_costs(network, SHAPES[name])
    with bypass_quantisation(network):
        prune_channels(network, SHAPES[name], 0.5)
    for _, layer in quantised_layers(network):
        layer.update_scale()
    assert compute_costs(network, SHAPES[name]).parameters < 0.4 * before.parameters
    again = fuse_blocks(NetworkSpec.parse(name).build(SHAPES[name], 10).eval(), changed)
    resize_layers(again, weight_shapes(network))
    insert_quantised_layers(again, 8, leaving)
    again.load_state_dict(packed_state_dict(network))
    with torch.no_grad():
        told = network(images(name), ()).logits
        assert torch.equal(again.eval()(images(name), ()).logits, told)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.LSTM(3, 4), "start: the network is of kind LSTM, which cannot be quantised"),
        (nn.Sequential(nn.Conv1d(1, 2, 3)), "start: 0 is of kind Conv1d"),
        (nn.Sequential(nn.Flatten()), "start: has neither a convolution nor a linear layer"),
    ],
)
def test_what_cannot_be_quantised_is_named(network, message):
    with pytest.raises(ConfigError) as error:
        check_quantisable(network)
    assert message in str(error.value)
