"""Each family is the network its paper describes: sizes in closed form, published counts."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import get_model

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.networks import resolve
from tests.support.networks import CIFAR, build_network, random_images


def parameters(spec, shape=CIFAR, classes=10):
    return network_costs(spec, shape, classes).parameters


def feature_shapes(spec, shape=CIFAR):
    network = build_network(spec, shape, device="meta").eval()
    features = network(torch.empty((1, *shape), device="meta")).features
    return {name: tuple(feature.shape[1:]) for name, feature in features.items()}


def conv(inputs, outputs, kernel=3, bias=False):
    """Parameters of a convolution and its batch norm."""
    return kernel**2 * inputs * outputs + (outputs if bias else 0) + 2 * outputs


# Plain CNN: TAKD, table of networks.

PLAIN = [
    # size, channels of the convolutions, pixels of the last map, hidden units
    ("cnn2", [16, 16], 8, []),
    ("cnn4", [16, 16, 32, 32], 8, []),
    ("cnn6", [16, 16, 32, 32, 64, 64], 4, []),
    ("cnn8", [16, 16, 32, 32, 64, 64, 128, 128], 2, [64]),
    ("cnn10", [32, 32, 64, 64, 128, 128, 256, 256, 256, 256], 2, [128]),
    ("cnn2_c100", [32, 32], 8, []),
    ("cnn4_c100", [32, 32, 64, 64], 8, []),
    ("cnn6_c100", [32, 32, 64, 64, 128, 128], 8, []),
    ("cnn8_c100", [32, 32, 64, 64, 128, 128, 256, 256], 2, [64]),
    ("cnn10_c100", [32, 32, 64, 64, 128, 128, 256, 256, 256, 256], 2, [512]),
]


@pytest.mark.parametrize(("name", "channels", "side", "hidden"), PLAIN)
@pytest.mark.parametrize("classes", [10, 100])
def test_plain_cnn_in_closed_form(name, channels, side, hidden, classes):
    convolutions = sum(conv(i, o, bias=True) for i, o in itertools.pairwise([3, *channels]))
    units = [channels[-1] * side**2, *hidden, classes]
    linear = sum((i + 1) * o for i, o in itertools.pairwise(units))
    assert parameters(name, classes=classes) == convolutions + linear


def test_plain_cnn_pools_like_the_paper_and_keeps_one_pixel():
    assert feature_shapes("cnn4") == {
        "conv1": (16, 32, 32),
        "conv2": (16, 16, 16),
        "conv3": (32, 16, 16),
        "conv4": (32, 8, 8),
        "head": (10,),
    }
    maps = feature_shapes("cnn10", (1, 8, 8))
    assert [maps[f"conv{i}"][1:] for i in (2, 4, 6, 10)] == [(4, 4), (2, 2), (1, 1), (1, 1)]


def test_plain_cnn_widens():
    assert feature_shapes({"cnn2": {"width": 0.5}})["conv1"] == (8, 16, 16)
    assert build_network({"cnn8": {"width": 2.0}}).blocks["head"].hidden.out_features == 128


# Cheap CNN.


def separable(inputs, outputs):
    """A filter for each channel, then the convolution that mixes them."""
    return conv(1, inputs) + conv(inputs, outputs, 1)


def ghost(inputs, outputs):
    """Half of the channels by a 1x1 convolution, a filter of each for the other half."""
    return conv(inputs, outputs // 2, 1) + conv(1, outputs // 2)


@pytest.mark.parametrize("cheap", [separable, ghost])
@pytest.mark.parametrize(("name", "channels", "side", "hidden"), PLAIN)
def test_cheap_cnn_in_closed_form(cheap, name, channels, side, hidden):
    depth, _, variant = name.removeprefix("cnn").partition("_")
    spec = {f"{cheap.__name__}_cnn{depth}": {"variant": "cifar100" if variant else "cifar10"}}
    convolutions = conv(3, channels[0], bias=True)
    convolutions += sum(cheap(i, o) for i, o in itertools.pairwise(channels))
    units = [channels[-1] * side**2, *hidden, 10]
    linear = sum((i + 1) * o for i, o in itertools.pairwise(units))
    assert parameters(spec) == convolutions + linear


@pytest.mark.parametrize("cheap", ["separable", "ghost"])
def test_cheap_cnn_keeps_the_maps_of_the_plain_one(cheap):
    for depth in (2, 4, 8):
        assert feature_shapes(f"{cheap}_cnn{depth}") == feature_shapes(f"cnn{depth}")


# ResNet.


@pytest.mark.parametrize(
    ("depth", "published"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_resnets_with_shortcut_a_have_the_published_counts(depth, published):
    """He et al. 2016, table 6, to the last parameter as akamaster's reimplementation has them."""
    assert parameters({f"resnet{depth}": {"shortcut": "A"}}) == published


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("depth", [8, 14, 20, 26, 32, 44, 56, 110])
def test_resnet_in_closed_form(depth, shortcut):
    blocks = (depth - 2) // 6
    expected = conv(3, 16) + 65 * 100
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        expected += conv(inputs, outputs) + (2 * blocks - 1) * conv(outputs, outputs)
        expected += conv(inputs, outputs, 1) if shortcut == "B" and inputs != outputs else 0
    assert parameters({f"resnet{depth}": {"shortcut": shortcut}}, classes=100) == expected


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("resnet20", 10, 272_474),
        ("resnet56", 10, 855_770),
        ("resnet110", 10, 1_730_714),
        ("resnet8x4", 100, 1_233_540),
        ("resnet32x4", 100, 7_433_860),
    ],
)
def test_resnets_with_shortcut_b_have_the_published_counts(name, classes, published):
    assert parameters(name, classes=classes) == published


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet20", 40.81), ("resnet32", 69.12), ("resnet44", 97.44), ("resnet56", 125.75)],
)
def test_resnets_have_the_published_multiplications(name, millions):
    """chenyaofo/pytorch-cifar-models, MAdds: half of our FLOPs."""
    assert network_costs(name, CIFAR, 10).flops / 2e6 == pytest.approx(millions, abs=0.006)


def test_resnet_stages_end_in_the_published_maps():
    maps = feature_shapes("resnet20")
    assert list(maps) == [
        "stem",
        *(f"stage{s}_{b}" for s in (1, 2, 3) for b in (1, 2, 3)),
        "head",
    ]
    assert [maps[f"stage{s}_3"] for s in (1, 2, 3)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    wide = feature_shapes("resnet8x4")
    assert [wide[n][0] for n in ("stem", "stage1_1", "stage2_1", "stage3_1")] == [32, 64, 128, 256]


def test_shortcut_a_subsamples_and_pads_with_zeros():
    block = build_network({"resnet20": {"shortcut": "A"}}).blocks["stage2_1"]
    x = torch.randn(2, 16, 7, 8)
    y = block.shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_shortcut_a_cannot_drop_channels():
    with pytest.raises(ConfigError, match="stem needs at most 8, found 16; or use shortcut B"):
        build_network({"resnet8": {"shortcut": "A", "width": 0.5, "stem": 16}})
    assert build_network({"resnet8": {"shortcut": "A", "width": 0.5}}).names[0] == "stem"


def test_a_residual_block_is_relu_of_branch_plus_shortcut():
    block = build_network("resnet8").blocks["stage2_1"].eval()
    x = torch.randn(2, 16, 8, 8)
    branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), F.relu(branch + block.shortcut(x)))


def test_resnets_start_with_variance_two_over_fan_out():
    for name in ("resnet32x4", "wrn-16-4", "vgg8"):
        for module in build_network(name).modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 1e5:
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                weight = module.weight.detach()
                assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
                assert abs(weight.mean()) < 0.05 * weight.std()


# Wide ResNet.


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("wrn-16-10", 10, 17_116_634),
        ("wrn-28-10", 10, 36_479_194),
        ("wrn-40-1", 100, 569_780),
        ("wrn-40-2", 100, 2_255_156),
        ("wrn-16-2", 100, 703_284),
    ],
)
def test_wide_resnets_have_the_published_counts(name, classes, published):
    assert parameters(name, classes=classes) == published


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 1), (16, 8), (22, 8), (40, 4)])
def test_wide_resnet_in_closed_form(depth, width):
    blocks, stages = (depth - 4) // 6, [16, 16 * width, 32 * width, 64 * width]
    # The batch norm of conv() stands before its successor here; the last stands in the head.
    expected = 27 * 16 + 2 * 16 + (stages[-1] + 1) * 10
    for inputs, outputs in itertools.pairwise(stages):
        expected += conv(inputs, outputs) + (2 * blocks - 1) * conv(outputs, outputs)
        expected += inputs * outputs if inputs != outputs else 0
    assert parameters(f"wrn-{depth}-{width}") == expected


def test_wide_resnet_activates_before_it_convolves():
    network = build_network({"wrn-10-1": {"width": 2}}).eval()
    state = network.state_dict()
    for key, tensor in state.items():
        if key.endswith(("running_mean", "running_var", "bn1.weight", "bn1.bias")):
            tensor.uniform_(0.5, 1.5)

    def norm(x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.relu(F.batch_norm(x, *(state[f"{name}.{part}"] for part in parts)))

    x = F.conv2d(random_images(), state["blocks.stem.weight"], padding=1)
    for stage in (1, 2, 3):
        name, stride = f"blocks.stage{stage}_1", 1 if stage == 1 else 2
        active = norm(x, f"{name}.bn1")
        y = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(norm(y, f"{name}.bn2"), state[f"{name}.conv2.weight"], padding=1)
        x = y + F.conv2d(active, state[f"{name}.shortcut.weight"], stride=stride)
    pooled = norm(x, "blocks.head.bn").mean((2, 3))
    logits = F.linear(pooled, state["blocks.head.fc.weight"], state["blocks.head.fc.bias"])
    torch.testing.assert_close(network(random_images()).logits.detach(), logits)


def test_wide_resnet_drops_in_training_only():
    network = build_network({"wrn-10-1": {"dropout": 0.4}})
    network.eval()
    assert torch.equal(network(random_images()).logits, network(random_images()).logits)
    network.train()
    assert not torch.equal(network(random_images()).logits, network(random_images()).logits)


# VGG.


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [("vgg8", 100, 3_965_028), ("vgg13", 100, 9_462_180)],
)
def test_vggs_have_the_published_counts(name, classes, published):
    assert parameters(name, classes=classes) == published


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_the_convolutions_of_torchvisions(depth):
    """The paper's features, and 512 instead of 25,088 of them into a single layer."""
    with torch.device("meta"):
        reference = get_model(f"vgg{depth}_bn", weights=None).features
    features = sum(p.numel() for p in reference.parameters())
    assert parameters(f"vgg{depth}") == features + 513 * 10


def test_vgg_maps_are_those_of_crd():
    maps = feature_shapes("vgg8")
    assert [maps[f"conv{s}_1"] for s in range(1, 6)] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 4, 4),
    ]
    assert feature_shapes("vgg8", (3, 64, 64))["conv5_1"] == (512, 4, 4)


# MobileNetV2.


@pytest.mark.parametrize(
    ("name", "published", "millions"),
    [
        ("mobilenet_v2_x0_5", 700_490, 27.97),
        ("mobilenet_v2_x0_75", 1_368_234, 59.31),
        ("mobilenet_v2", 2_236_682, 87.98),
        ("mobilenet_v2_x1_4", 4_333_706, 170.07),
    ],
)
def test_mobilenets_have_the_published_costs(name, published, millions):
    """chenyaofo/pytorch-cifar-models: parameters, and MAdds, which are half of our FLOPs."""
    found = network_costs(name, CIFAR, 10)
    assert found.parameters == published
    assert found.flops / 2e6 == pytest.approx(millions, abs=0.006)


def test_mobilenet_is_torchvisions_with_smaller_strides():
    torch.manual_seed(0)
    reference = get_model("mobilenet_v2", weights=None, num_classes=10).eval()
    reference.features[0][0].stride = (1, 1)
    reference.features[2].conv[1][0].stride = (1, 1)
    network = build_network("mobilenet_v2").eval()
    state = resolve("mobilenet_v2")[1].rename_published(reference.state_dict())
    network.load_state_dict({**network.state_dict(), **state})
    with torch.no_grad():
        assert torch.equal(network(random_images()).logits, reference(random_images()))


# LeNet.


@pytest.mark.parametrize(("shape", "maps"), [((1, 28, 28), 5), ((3, 32, 32), 5), ((1, 12, 12), 1)])
def test_lenet_in_closed_form(shape, maps):
    units = [16 * maps**2, 120, 84, 10]
    linear = sum((i + 1) * o for i, o in itertools.pairwise(units))
    convolutions = (25 * shape[0] + 1) * 6 + (25 * 6 + 1) * 16
    assert parameters("lenet5", shape) == convolutions + linear
    assert feature_shapes("lenet5", shape)["conv2"] == (16, maps, maps)


def test_lenet_starts_as_xavier_says():
    fc1 = build_network("lenet5").blocks["head"].fc1
    assert fc1.weight.detach().std().item() == pytest.approx((2 / (400 + 120)) ** 0.5, rel=0.02)
    assert not fc1.bias.any()
