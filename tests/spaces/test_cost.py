"""Costs against figures counted by hand."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import Costs, compute_costs, network_costs
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.networks import resolve
from tests.support.networks import CIFAR, build_network


def test_lenet_by_hand():
    """Convolutions: pixels x kernel x channels; linear layers: inputs x outputs; twice each."""
    multiplications = 28 * 28 * 25 * 1 * 6 + 10 * 10 * 25 * 6 * 16 + 400 * 120 + 120 * 84 + 84 * 10
    parameters = 26 * 6 + (150 + 1) * 16 + 401 * 120 + 121 * 84 + 85 * 10
    found = network_costs("lenet5", (1, 28, 28), 10)
    assert found == Costs(parameters, 2 * multiplications, 4 * (parameters + 2))


def test_cnn2_by_hand():
    multiplications = 32 * 32 * 9 * 3 * 16 + 16 * 16 * 9 * 16 * 16 + 1024 * 10
    parameters = (27 + 1 + 2) * 16 + (144 + 1 + 2) * 16 + 1025 * 10
    # Each batch norm also stores 16 means, 16 variances and a counter of 8 bytes.
    stored = 4 * (parameters + 2 * 32 + 2) + 2 * 8
    found = network_costs("cnn2", CIFAR, 10)
    assert found == Costs(parameters, 2 * multiplications, stored)


@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 10, 12), 2 * 9 * 8 * 120),
        (nn.Conv2d(4, 6, 1, stride=2), (4, 9, 9), 2 * 4 * 6 * 25),
        (nn.Linear(7, 5), (7,), 2 * 35),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 4, 4), 0),
    ],
    ids=["depthwise", "strided", "linear", "no products"],
)
def test_layers_by_hand(layer, shape, flops):
    assert compute_costs(layer, shape).flops == flops


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2_x0_5", "lenet5", "vgg8"])
def test_flops_are_those_of_torchs_own_counter(name):
    network = build_network(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros((1, *CIFAR)))
    assert compute_costs(network, CIFAR).flops == counter.get_total_flops() > 0


def test_costs_of_a_network_that_is_there_need_no_compiler():
    """It takes over a second to load, and every worker asks for costs."""
    program = (
        "import sys, torch; from stillhouse.spaces.cost import compute_costs; "
        "from stillhouse.spaces.modules.cuts import cut_positions; "
        "from stillhouse.spaces.network_spec import NetworkSpec; "
        "network = NetworkSpec.parse('resnet8').build((3, 8, 8), 10); "
        "compute_costs(network, (3, 8, 8)); cut_positions(network, (3, 8, 8)); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_bytes_are_what_is_stored():
    assert compute_costs(nn.Linear(7, 5).half(), (7,)).bytes == 2 * 40
    network = build_network("resnet8")
    stored = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    assert compute_costs(network, CIFAR).bytes == stored


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "mobilenet_v2_x0_5", "cnn4", "vgg8"])
def test_blocks_add_up_to_the_network(name):
    network = build_network(name).eval()
    shape, parts = CIFAR, []
    for place in range(len(network.names)):
        span = network.span(place, place + 1)
        parts.append(compute_costs(span, shape))
        with torch.no_grad():
            shape = tuple(span(torch.zeros((1, *shape))).shape[1:])
    whole = compute_costs(network, CIFAR)
    assert sum(part.flops for part in parts) == whole.flops
    assert sum(part.parameters for part in parts) == whole.parameters
    # The network itself stores one mean and one deviation.
    assert sum(part.bytes for part in parts) == whole.bytes - 8


@pytest.mark.parametrize("name", ["resnet8", "tv_mobilenet_v3_small"])
def test_an_unbuilt_network_costs_what_a_built_one_does(name):
    assert network_costs(name, CIFAR, 10) == compute_costs(build_network(name), CIFAR)


def test_counting_leaves_the_network_as_it_was():
    network = build_network("resnet8").train()
    network.blocks["stem"].eval()
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    compute_costs(network, CIFAR)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(t, state[key]) for key, t in network.state_dict().items())
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_modes_come_back_even_when_the_shape_does_not_fit():
    network = build_network("resnet8").train()
    with pytest.raises(RuntimeError):
        compute_costs(network, (4, 32, 32))
    assert all(module.training for module in network.modules())


def test_equal_settings_are_counted_once():
    first = network_costs("resnet14", CIFAR, 10)
    assert network_costs({"resnet": {"depth": 14, "width": 1}}, CIFAR, 10) is first
    assert network_costs("resnet14", CIFAR, 100) != first
    assert network_costs(NetworkSpec.parse("resnet14"), CIFAR, 10) is first


def test_families_with_equal_settings_are_not_confused():
    vgg, cnn = network_costs({"vgg": {"depth": 8}}, CIFAR, 10), network_costs("cnn8", CIFAR, 10)
    assert vgg != cnn
    assert resolve("vgg8")[1] != resolve("cnn8")[1]


def test_costs_depend_on_the_image():
    small, large = (network_costs("resnet8", (3, side, side), 10) for side in (16, 32))
    assert small.parameters == large.parameters
    head = 2 * 64 * 10
    assert 4 * (small.flops - head) == large.flops - head


def test_what_does_not_fit_is_refused_before_it_is_counted():
    with pytest.raises(ConfigError, match="at least 12x12"):
        network_costs("lenet5", (1, 8, 8), 10)
