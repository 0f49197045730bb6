"""The contract that every family in the folder keeps, whatever it is."""

import pytest
import torch
from torch import nn

from stillhouse.spaces.config.base import Config
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.networks import FAMILIES, resolve, sizes
from tests.support.networks import CIFAR, build_network, random_images

TEXT = (12, 9, 1)
# The smallest of each kind of code path: enough where numbers are computed, not only shapes.
LIGHT = (
    "cnn2",
    "cnn8",
    "cnn6_c100",
    "separable_cnn4",
    "ghost_cnn4",
    "resnet8",
    "wrn-10-1",
    "vgg8",
    "mobilenet_v2_x0_5",
    "lenet5",
    "tv_resnet18",
    "tv_mobilenet_v2",
    "tv_mobilenet_v3_small",
    "tv_efficientnet_b0",
    "text_cnn_small",
    "bilstm_small",
)


def fitting(spec):
    """The shape of what a network reads."""
    return TEXT if NetworkSpec.parse(spec).settings.input_form == "text" else CIFAR


def build(spec, shape=None, classes=10, device="cpu"):
    return build_network(spec, shape or fitting(spec), classes, device)


@pytest.fixture(scope="module")
def light():
    """Each light network once, in evaluation mode, with statistics of real batches.

    Without these, deep fresh networks say almost zero, and everything equals everything.
    """
    return {name: settled(build(name), name) for name in LIGHT}


def settled(network, name):
    """``network`` with each batch norm's running statistics set to those of one batch."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(random_images(16, fitting(name), seed=2))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def test_every_family_has_a_light_member_here():
    known = sizes()
    assert {known[name][0] for name in LIGHT} == set(FAMILIES.names())


@pytest.mark.parametrize("family", FAMILIES.names())
def test_a_family_is_complete(family):
    cls = FAMILIES.load(family)
    assert issubclass(cls, Config)
    assert cls.__doc__
    assert cls.sizes
    for name, settings in cls.sizes.items():
        assert "." not in name
        assert cls.parse(dict(settings)).plain().keys() == cls.model_fields.keys()
    assert (cls.published_mean is None) == (cls.published_std is None)


@pytest.mark.parametrize("family", FAMILIES.names())
def test_every_setting_says_what_it_means_and_holds_its_own_range(family):
    cls = FAMILIES.load(family)
    assert all(field.description for field in cls.model_fields.values())
    assert cls.search_space()
    for name, domain in cls.search_space().items():
        for value in domain.grid(3):
            assert getattr(cls.parse({name: value}), name) == value


def test_no_size_is_named_twice():
    names = [name for family in FAMILIES.names() for name in FAMILIES.load(family).sizes]
    names += FAMILIES.names()
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", sizes())
def test_every_size_maps_images_to_logits(name):
    for classes in (2, 10, 100) if name in LIGHT else (10,):
        network = build(name, classes=classes, device="meta").eval()
        output = network(torch.empty((2, *fitting(name)), device="meta"))
        assert isinstance(network, Network)
        assert output.logits.shape == (2, classes)
        assert tuple(output.features) == network.names
        assert all(block.isidentifier() for block in network.names)
        assert network.names[-1] == "head"
        assert all(feature.shape[0] == 2 for feature in output.features.values())


@pytest.mark.parametrize("family", FAMILIES.names())
def test_every_value_of_every_range_builds(family):
    cls = FAMILIES.load(family)
    for name, domain in cls.search_space().items():
        for value in domain.grid(3):
            spec = {family: {name: value}}
            examples = torch.empty((2, *fitting(spec)), device="meta")
            assert build(spec, device="meta").eval()(examples).logits.shape == (2, 10)


READERS = ("text_cnn", "bilstm")
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 33, 21), (4, 64, 64), (3, 1, 1), (3, 224, 224)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [n for n in LIGHT if not n.startswith(("tv_", *READERS))])
def test_images_of_any_shape_fit_or_are_refused(name, shape):
    if name == "lenet5" and min(shape[1:]) < 12:
        with pytest.raises(ConfigError, match="lenet5 needs images of at least 12x12"):
            build(name, shape)
        return
    network = build(name, shape, 3, device="meta").eval()
    assert network(torch.empty((2, *shape), device="meta")).logits.shape == (2, 3)


@pytest.mark.parametrize("shape", [(3, 2, 1), (100, 400, 1), (1, 30, 1)], ids=str)
@pytest.mark.parametrize("name", LIGHT)
def test_texts_of_any_length_fit_or_are_refused(name, shape):
    if not name.startswith(READERS):
        told = f"{name} reads images, and the data holds {shape[1]} words of {shape[0]} dimensions"
        with pytest.raises(ConfigError, match=told):
            build(name, shape)
        return
    network = build(name, shape, 3, device="meta").eval()
    output = network(torch.empty((2, *shape), device="meta"))
    assert output.logits.shape == (2, 3)
    assert output.features[network.names[0]].shape[2:] == shape[1:]


@pytest.mark.parametrize("shape", [*SHAPES, (3, 2, 2)], ids=str)
@pytest.mark.parametrize("name", ["text_cnn_small", "bilstm_small"])
def test_readers_refuse_images(name, shape):
    told = f"{name} reads text, and the data holds images of {shape[1]}x{shape[2]}"
    with pytest.raises(ConfigError, match=told):
        build(name, shape)


@pytest.mark.parametrize("name", LIGHT)
def test_the_seed_decides_every_weight(name):
    expected, again = build(name).state_dict(), build(name).state_dict()
    torch.manual_seed(1)
    other = NetworkSpec.parse(name).build(fitting(name), 10).state_dict()
    assert all(torch.equal(again[key], expected[key]) for key in expected)
    assert any(not torch.equal(other[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", LIGHT)
def test_a_fresh_network_is_finite_and_learns_everywhere(name):
    network = build(name).train()
    loss = nn.functional.cross_entropy(
        network(random_images(8, fitting(name))).logits, torch.arange(8)
    )
    loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("training", [True, False])
def test_no_block_writes_into_its_input(name, training):
    """Otherwise a tapped feature would not be what its block returned."""
    network = build(name).train(training)
    x = random_images(4, fitting(name))
    for block in network.blocks.values():
        before = x.clone()
        y = block(x)
        assert torch.equal(x, before)
        x = y.detach()


@pytest.mark.parametrize("name", LIGHT)
def test_spans_and_swaps_reassemble_without_a_bits_difference(name, light):
    network = light[name]
    count = len(network.names)
    x = random_images(shape=fitting(name))
    with torch.no_grad():
        expected = network(x).logits
        for cut in (1, count // 2, count - 1):
            halves = network.span(cut, count)(network.span(0, cut)(x))
            assert torch.equal(halves, expected)
            swapped = network.swap(cut - 1, cut + 1, network.span(cut - 1, cut + 1))
            assert torch.equal(swapped(x).logits, expected)


@pytest.mark.parametrize("name", LIGHT)
def test_evaluation_looks_at_each_image_alone(name, light):
    network = light[name]
    with torch.no_grad():
        x = random_images(3, fitting(name))
        together = network(x).logits
        alone = torch.cat([network(image[None]).logits for image in x])
    spread = together.std().item()
    assert spread > 1e-3
    # A deep fresh network enlarges the last bit, in which batches of other sizes may differ.
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3 * spread)


@pytest.mark.parametrize("name", LIGHT)
def test_weights_of_our_own_names_come_back_as_they_are(name, light):
    state = light[name].state_dict()
    renamed = NetworkSpec.parse(name).settings.rename_published(state)
    assert renamed.keys() == state.keys()


@pytest.mark.parametrize(
    "spec",
    [
        "resnet20",
        {"resnet20": {}},
        {"resnet": {"depth": 20}},
        {"family": "resnet", "depth": 20},
        {"family": "resnet20"},
    ],
)
def test_one_network_may_be_said_in_many_ways(spec):
    assert resolve(spec) == resolve("resnet20")
    assert NetworkSpec.parse(spec).identity() == NetworkSpec.parse("resnet20").identity()


def test_settings_override_a_size():
    family, settings = resolve({"resnet56": {"shortcut": "A"}})
    assert (family, settings.depth, settings.shortcut) == ("resnet", 56, "A")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("resnet_20", "did you mean 'resnet20'"),
        ({"resnet": {"depth": 21}}, "6n + 2"),
        ({"wide_resnet": {"depth": 20}}, "6n + 4"),
        ({"resnet": {"deepth": 20}}, "did you mean 'depth'"),
        ({"plain_cnn": {"depth": 3}}, "found 3"),
        ({"torchvision": {"model": "resnet19"}}, "did you mean 'resnet18'"),
        ({"a": {}, "b": {}}, "needs a name"),
        (20, "needs a name"),
        ({"resnet": 20}, "needs a name"),
    ],
)
def test_a_wrong_network_is_one_clear_line(spec, says):
    with pytest.raises(ConfigError) as caught:
        resolve(spec, "teacher.network")
    assert str(caught.value).startswith("teacher.network")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [1e308, 1e9])
def test_a_network_beyond_any_size_is_refused_in_one_line(width):
    """Its channels are no whole number any more, or its weights no size of memory."""
    with pytest.raises(ConfigError, match="is larger than any machine holds; make it smaller"):
        NetworkSpec.parse({"cnn4": {"width": width}}).build_for_shapes((3, 32, 32), 10)
