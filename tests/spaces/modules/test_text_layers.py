"""Networks for texts: closed forms, costs by hand, and derivatives of derivatives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import Costs, compute_costs, network_costs
from stillhouse.spaces.modules.text_layers import LSTM, MaxOverTime, WordConvs
from stillhouse.spaces.network_spec import NetworkSpec

IMDB = (100, 400, 1)


def build(spec, shape=(6, 5, 1), classes=3):
    torch.manual_seed(0)
    return NetworkSpec.parse(spec).build(shape, classes)


def texts(count=4, shape=(6, 5, 1), dtype=torch.float32):
    chance = torch.Generator().manual_seed(1)
    return torch.randn((count, *shape), generator=chance, dtype=dtype)


def test_text_cnn_by_hand():
    """Kim 2014: three heights, 100 filters each, 400 words of 100 dimensions, two classes."""
    parameters = 100 * (3 + 4 + 5) * 100 + 300 + (300 + 1) * 2
    multiplications = 400 * 100 * (3 + 4 + 5) * 100 + 300 * 2
    expected = Costs(parameters, 2 * multiplications, 4 * (parameters + 2))
    assert network_costs("text_cnn", IMDB, 2) == expected


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bilstm_by_hand(layers, fused, device):
    """Each direction: four gates from its input and its own state, two biases a gate."""
    with torch.device(device):
        spec = {"bilstm": {"hidden": 7, "layers": layers, "fused": fused}}
        network = build(spec, (5, 11, 1)).eval()
    inputs = [5, 14][:layers]
    weights = sum(2 * 4 * 7 * (size + 7) for size in inputs)
    parameters = weights + layers * 2 * 4 * 7 * 2 + (14 + 1) * 3
    found = compute_costs(network, (5, 11, 1))
    assert found.parameters == parameters
    assert found.flops == 2 * (11 * weights + 14 * 3)


def test_convolutions_are_dot_products_with_zeros_around():
    torch.manual_seed(0)
    layer = WordConvs(3, 2, (1, 4)).double()
    x = texts(2, (3, 5, 1), torch.float64)
    found = layer(x).detach().numpy()
    assert found.shape == (2, 4, 5, 1)
    padded = np.pad(x[..., 0].numpy(), ((0, 0), (0, 0), (1, 2)))  # height 4: one before, two after
    for number, (conv, start) in enumerate(zip(layer.convs, (1, 0), strict=True)):
        weight, bias = (p.detach().numpy() for p in (conv.weight, conv.bias))
        height = weight.shape[2]
        for word in range(5):
            window = padded[:, :, word + start : word + start + height]
            value = np.einsum("ndh,fdh->nf", window, weight) + bias
            mine = found[:, 2 * number : 2 * number + 2, word, 0]
            np.testing.assert_allclose(mine, np.maximum(value, 0), atol=1e-12)


def test_the_pool_takes_the_largest_of_all_words():
    x = texts()
    assert torch.equal(MaxOverTime()(x), x[..., 0].max(dim=2).values)


def test_both_forms_of_the_lstm_are_one_function():
    torch.manual_seed(0)
    fused = LSTM(6, 4).double()
    plain = LSTM(6, 4, fused=False).double()
    plain.load_state_dict(fused.state_dict())
    x = texts(dtype=torch.float64)
    torch.testing.assert_close(plain(x), fused(x))
    reference = nn.LSTM(6, 4, batch_first=True, bidirectional=True).double()
    reference.load_state_dict(fused.state_dict())
    torch.testing.assert_close(fused(x)[..., 0].transpose(1, 2), reference(x[..., 0].mT)[0])


@pytest.mark.parametrize("spec", ["text_cnn_small", {"bilstm": {"hidden": 3, "fused": False}}])
def test_networks_are_differentiated_twice_and_mapped(spec):
    """The gradient of a gradient's square with respect to the text, against differences."""
    network = build(spec).double().eval()
    weights = {name: p.detach() for name, p in network.named_parameters()}
    labels = torch.tensor([0, 1, 2, 1])

    def loss(weights, x):
        logits = functional_call(network, weights, (x, ())).logits
        return nn.functional.cross_entropy(logits, labels)

    def steepness(x):
        return sum(g.square().sum() for g in grad(loss)(weights, x).values())

    x = texts(dtype=torch.float64)
    found, step = grad(steepness)(x), 1e-6
    along = texts(4, dtype=torch.float64).flip(0)
    change = (steepness(x + step * along) - steepness(x - step * along)) / (2 * step)
    assert (found * along).sum().item() == pytest.approx(change.item(), rel=1e-5)
    several = {name: torch.stack([w, 2 * w]) for name, w in weights.items()}
    mapped = vmap(loss, in_dims=(0, None))(several, x)
    alone = [loss({name: w[i] for name, w in several.items()}, x) for i in (0, 1)]
    torch.testing.assert_close(mapped, torch.stack(alone))


def test_the_fused_lstm_is_differentiated_twice_on_a_processor():
    network = build("bilstm_small").double().eval()
    x = texts(dtype=torch.float64).requires_grad_()
    loss = network(x, ()).logits.square().sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), x)[0].abs().sum() > 0


@pytest.mark.parametrize("heights", [[], [0], [3, 3]])
def test_heights_are_each_there_once(heights):
    with pytest.raises(ConfigError, match="needs a height or more"):
        NetworkSpec.parse({"text_cnn": {"heights": heights}})


def test_a_text_has_no_view():
    with pytest.raises(ConfigError, match="sees: is a view of images, and texts have none"):
        build({"text_cnn": {"sees": {"size": 1}}})
