"""Views: what is left of an image, and networks that are given nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import network_costs
from stillhouse.spaces.modules.image_view import ImageView, ViewTransform
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.networks import FAMILIES

SHAPE = (3, 32, 32)
VIEWS = ({"grey": True}, {"size": 16}, {"grey": True, "size": 16})


def images(*shape, seed=0):
    return torch.rand((4, *(shape or SHAPE)), generator=torch.Generator().manual_seed(seed))


def built(sees, network="cnn4", seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return (
            NetworkSpec.parse(network)
            .with_view(sees and ImageView.parse(sees))
            .build(SHAPE, 10)
            .eval()
        )


def test_grey_is_luminance_and_coarse_the_mean_of_areas():
    x = images()
    found = ViewTransform(grey=True, size=16)(x).numpy()
    grey = np.einsum("nchw,c->nhw", x.double().numpy(), [0.299, 0.587, 0.114])
    expected = grey.reshape(4, 16, 2, 16, 2).mean(axis=(2, 4))[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [None, 16, 12, 5])
def test_a_view_of_a_view_is_itself(grey, size):
    """Taken of the full image, and of that image as the view shows it."""
    look = ViewTransform(grey, size)
    seen = look(images())
    shown = seen.expand(-1, 3, -1, -1)
    torch.testing.assert_close(look(shown), seen)


@pytest.mark.parametrize("sees", VIEWS, ids=str)
def test_normalised_before_or_after_it_is_the_same_view(sees):
    view, x = ImageView.parse(sees), images()
    look = ViewTransform(view.grey, view.size)
    full = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    mean, std = (torch.tensor(m).view(1, -1, 1, 1) for m in view.normalisation(*full))
    torch.testing.assert_close(look((x - mean) / std), (look(x) - mean) / std)


def test_grey_normalisation_is_exact_for_channels_that_go_together():
    x = images(1).repeat(1, 3, 1, 1) * torch.tensor([0.5, 1.0, 0.8]).view(1, 3, 1, 1)
    moments = [tuple(f(dim=(0, 2, 3)).tolist()) for f in (x.mean, x.std)]
    mean, std = ImageView(grey=True).normalisation(*moments)
    seen = ViewTransform(True, None)(x)
    assert mean[0] == pytest.approx(seen.mean().item(), rel=1e-5)
    assert std[0] == pytest.approx(seen.std().item(), rel=1e-5)


@pytest.mark.parametrize("sees", VIEWS, ids=str)
def test_logits_depend_on_the_view_alone(sees):
    network, view = built(sees), ImageView.parse(sees)
    x = images()
    # Another image with the same view: its fine detail and its colours are changed.
    seen = ViewTransform(view.grey, view.size)(x)
    other = torch.nn.functional.interpolate(seen, size=(32, 32)).expand(-1, 3, -1, -1)
    assert not torch.allclose(other, x)
    torch.testing.assert_close(network(other).logits, network(x).logits)
    assert not torch.allclose(network(x.flip(0)).logits, network(x).logits)


@pytest.mark.parametrize("sees", VIEWS, ids=str)
@pytest.mark.parametrize(
    "family",
    [n for n in FAMILIES.names() if n != "torchvision" and FAMILIES.load(n).input_form == "images"],
)
def test_every_family_is_built_for_the_view(family, sees):
    spec = NetworkSpec.parse({"family": family, "sees": sees})
    plain = NetworkSpec.parse(family)
    network = spec.build((3, 64, 64), 10).eval()
    assert network.names == plain.build((3, 64, 64), 10).names
    assert network(images(3, 64, 64)).logits.shape == (4, 10)
    assert NetworkSpec.parse(spec.plain()) == spec
    assert spec.identity() != plain.identity()
    found, whole = (network_costs(s.plain(), (3, 64, 64), 10) for s in (spec, plain))
    assert found.flops < whole.flops


def test_without_a_view_nothing_is_said_of_one():
    """Keys of what was made before there were views stay what they are."""
    assert "sees" not in NetworkSpec.parse("cnn2").identity()


def test_may_be_said_wherever_a_network_is_named():
    spec = NetworkSpec.parse("cnn2").with_view(ImageView(grey=True))
    assert spec.label == "cnn2-grey"
    for said in (
        {"cnn2": {"sees": {"grey": True}}},
        {"family": "plain_cnn", "depth": 2, "sees": {"grey": True}},
    ):
        assert NetworkSpec.parse(said).plain() == spec.plain()


@pytest.mark.parametrize(
    ("sees", "shape", "message"),
    [
        ({}, SHAPE, "leaves the whole image"),
        ({"gray": True}, SHAPE, "unknown field 'gray'.*'grey'"),
        ({"grey": True}, (1, 8, 8), "sees.grey: needs images of 3 channels, found 1"),
        ({"size": 33}, SHAPE, "sees.size: must be at most the images' 32x32 pixels, found 33"),
    ],
)
def test_mistakes_are_named(sees, shape, message):
    with pytest.raises(ConfigError, match=message):
        NetworkSpec.parse({"cnn2": {"sees": sees}}).build(shape, 10)
