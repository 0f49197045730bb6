"""Pruning: what is taken out is what matters least, and what stays fits together."""

import pytest
import torch
from torch import nn

from stillhouse.spaces.compression.layer_sizes import (
    freeze_zero_weights,
    resize_layers,
    weight_shapes,
)
from stillhouse.spaces.compression.pruning import (
    check_prunable,
    narrowest_layer,
    prune_channels,
    prune_weights,
)
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec

NETWORKS = {
    "lenet5": (1, 28, 28),
    "cnn6": (3, 32, 32),
    "separable_cnn10": (3, 32, 32),
    "resnet20": (3, 32, 32),
    "mobilenet_v2_x0_5": (3, 32, 32),
    "wrn-10-1": (3, 32, 32),
}


def build(name, seed=0):
    torch.manual_seed(seed)
    return NetworkSpec.parse(name).build(NETWORKS[name], 10).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_channels_go_with_all_that_reads_them(name):
    network, shape = build(name), NETWORKS[name]
    before = compute_costs(network, shape)
    prune_channels(network, shape, 0.5)
    after = compute_costs(network, shape)
    assert after.parameters < 0.35 * before.parameters
    assert after.flops < 0.4 * before.flops
    copy = build(name, seed=1)
    resize_layers(copy, weight_shapes(network))
    copy.load_state_dict(network.state_dict())
    images = torch.rand(3, *shape)
    with torch.no_grad():
        told = network(images, ()).logits
        assert told.shape == (3, 10)
        assert torch.equal(copy(images, ()).logits, told)


def texts():
    torch.manual_seed(0)
    return (
        NetworkSpec.parse({"text_cnn": {"filters": 8, "dropout": 0.0}}).build((6, 12, 1), 3).eval()
    )


def test_filters_of_words_go_as_those_of_images():
    network = texts()
    prune_channels(network, (6, 12, 1), 0.5)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters() if p.dim() > 1}
    assert [shape[0] for shape in shapes.values()] == [4, 4, 4, 3]
    assert shapes["blocks.head.fc.weight"] == (3, 12)
    copy = texts()
    resize_layers(copy, weight_shapes(network))
    copy.load_state_dict(network.state_dict())
    words = torch.rand(2, 6, 12, 1)
    assert torch.equal(copy(words, ()).logits, network(words, ()).logits)


def test_single_weights_go_from_filters_of_words():
    network = texts()
    prune_weights(network, 0.5, "layer")
    for weight in (p for p in network.parameters() if p.dim() > 1):
        assert int((weight == 0).sum()) == weight.numel() // 2


def test_an_lstm_is_not_pruned():
    network = NetworkSpec.parse("bilstm").build((6, 12, 1), 3)
    with pytest.raises(ConfigError, match=r"lstm1.* is of kind LSTM, which cannot be pruned"):
        check_prunable(network)


def two_layers():
    """Four hidden channels, of which the second and the fourth hardly matter."""
    first, last = nn.Conv2d(1, 4, 1), nn.Linear(4, 3)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([3.0, 0.1, 2.0, 0.2]).view(4, 1, 1, 1))
        first.bias.zero_()
        last.weight.copy_(torch.arange(1.0, 13.0).view(3, 4))
        last.weight[:, 1] *= 0.01
        last.weight[:, 3] *= 0.01
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    return Network({"first": first, "head": head}).eval()


def test_the_channels_that_matter_least_go():
    network = two_layers()
    kept = network.blocks["head"][2].weight.detach()[:, [0, 2]].clone()
    prune_channels(network, (1, 2, 2), 0.5)
    assert network.blocks["first"].weight.flatten().tolist() == [3.0, 2.0]
    assert torch.equal(network.blocks["head"][2].weight, kept)


@pytest.mark.parametrize("told", [{"resnet8": {"shortcut": "A"}}, "ghost_cnn4"], ids=str)
def test_what_cannot_be_traced_is_refused_with_the_remedy(told):
    spec = NetworkSpec.parse(told)
    with pytest.raises(ConfigError, match=r"how: the channels .* cannot be pruned: .*how: weights"):
        prune_channels(spec.build((3, 32, 32), 10).eval(), (3, 32, 32), 0.5)


def test_a_network_without_channels_of_its_own_is_refused():
    network = Network({"head": nn.Sequential(nn.Flatten(), nn.Linear(4, 3))}).eval()
    with pytest.raises(ConfigError, match=r"sparsity: 0\.5 takes no channel out of this network"):
        prune_channels(network, (1, 2, 2), 0.5)


def test_the_narrowest_layer_is_one_that_has_channels_of_its_own():
    assert narrowest_layer(build("lenet5")) == ("blocks.conv1.conv", 6)


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_the_smallest_weights_become_zeros(scope):
    network = build("lenet5")
    whole = {k: v.clone() for k, v in network.state_dict().items()}
    prune_weights(network, 0.6, scope)
    kept, gone, shares = [], [], []
    for path in weight_shapes(network):
        before, after = whole[f"{path}.weight"], network.state_dict()[f"{path}.weight"]
        zero = after == 0
        assert torch.equal(after[~zero], before[~zero])
        kept.append(before[~zero].abs().min())
        gone.append(before[zero].abs().max())
        shares.append(zero.float().mean().item())
        if scope == "layer":
            assert kept[-1] > gone[-1]
            assert shares[-1] == pytest.approx(0.6, abs=0.01)
    zeros = sum(int((p == 0).sum()) for n, p in network.named_parameters() if n.endswith("weight"))
    count = sum(p.numel() for n, p in network.named_parameters() if n.endswith("weight"))
    assert zeros / count == pytest.approx(0.6, abs=0.01)
    if scope == "network":
        assert min(kept) > max(gone)
        assert max(shares) - min(shares) > 0.1


def test_a_layer_that_would_be_left_empty_is_named():
    network = two_layers()
    with torch.no_grad():
        network.blocks["first"].weight.mul_(1e-3)
    with pytest.raises(ConfigError, match=r"sparsity: 0\.3 would leave nothing of blocks\.first"):
        prune_weights(network, 0.3, "network")


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_zeros_stay_zeros_in_training(optimizer):
    network = build("lenet5")
    prune_weights(network, 0.5, "layer")
    freeze_zero_weights(network)
    zeros = {n: p == 0 for n, p in network.named_parameters() if n.endswith("weight")}
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    steps = optimizer(network.parameters(), lr=0.05, weight_decay=0.01, **momentum)
    for _ in range(3):
        steps.zero_grad()
        network(torch.rand(4, 1, 28, 28), ()).logits.square().sum().backward()
        steps.step()
    for name, weight in network.named_parameters():
        if name in zeros:
            assert torch.equal(weight == 0, zeros[name]), name
            assert not torch.equal(weight, before[name])
