"""torchvision's models as chains of blocks: the same numbers, and published weights fit."""

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.networks import FAMILIES, resolve
from tests.support.networks import CIFAR, build_network, random_images

MODELS = [settings["model"] for settings in FAMILIES.load("torchvision").sizes.values()]


@pytest.mark.parametrize("model", MODELS)
def test_models_have_the_documented_parameters(model):
    weights = next(iter(get_model_weights(model)))
    found = network_costs(f"tv_{model}", (3, 64, 64), 1000)
    assert found.parameters == weights.meta["num_params"]


@pytest.mark.parametrize("model", ["resnet18", "vgg11", "mobilenet_v3_small", "efficientnet_b0"])
def test_models_have_the_documented_multiplications(model):
    weights = next(iter(get_model_weights(model)))
    found = network_costs(f"tv_{model}", (3, 224, 224), 1000)
    assert found.flops / 2e9 == pytest.approx(weights.meta["_ops"], abs=6e-4)


def both(model):
    """A state as torchvision publishes it, and the same network as ours, sharing its tensors."""
    torch.manual_seed(0)
    reference = get_model(model, weights=None).eval()
    family = resolve(f"tv_{model}")[1]
    network: Network = build_network(f"tv_{model}", CIFAR, 1000, device="meta").eval()
    state = family.rename_published(reference.state_dict())
    state |= {"mean": torch.zeros(1, 1, 1, 1), "std": torch.ones(1, 1, 1, 1)}
    network.load_state_dict(state, assign=True)
    return reference, network


@pytest.mark.parametrize(
    "model",
    [
        "resnet18",
        "resnet50",
        "vgg11",
        "vgg11_bn",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b0",
    ],
)
def test_models_say_the_same_to_the_bit(model):
    reference, network = both(model)
    with torch.no_grad():
        assert torch.equal(network(random_images()).logits, reference(random_images()))


@pytest.mark.parametrize("model", MODELS)
def test_every_published_tensor_of_torchvision_has_its_place(model):
    with torch.device("meta"):
        state = get_model(model, weights=None).state_dict()
    own = build_network(f"tv_{model}", CIFAR, 1000, device="meta").state_dict()
    renamed = resolve(f"tv_{model}")[1].rename_published(state)
    assert {key: t.shape for key, t in renamed.items()} == {
        key: t.shape for key, t in own.items() if key not in ("mean", "std")
    }


def test_other_classes_only_replace_torchvisions_last_layer():
    shapes = [
        {
            key: tensor.shape
            for key, tensor in build_network("tv_mobilenet_v3_small", CIFAR, classes, "meta")
            .state_dict()
            .items()
        }
        for classes in (10, 1000)
    ]
    differing = {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}
    assert differing == {"blocks.head.classifier.3.weight", "blocks.head.classifier.3.bias"}


def test_torchvision_says_what_it_needs():
    with pytest.raises(ConfigError, match="3 channels, found 1"):
        build_network("tv_resnet18", (1, 28, 28))
    with pytest.raises(ConfigError, match="tv_vgg11 needs images of at least 32x32"):
        build_network("tv_vgg11", (3, 31, 64))
    assert build_network("tv_resnet18", (3, 1, 1), device="meta").names[0] == "stem"
