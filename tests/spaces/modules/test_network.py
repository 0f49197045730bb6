"""Network: a chain that can be tapped, cut and put together again without a bit's difference."""

import pytest
import torch
from torch import nn

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.network import Network, require_min_size


def chain(mean=(0.0,), std=(1.0,)):
    torch.manual_seed(0)
    blocks = {
        "stem": nn.Conv2d(3, 4, 3),
        "middle": nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
        "head": nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, 5)),
    }
    return Network(blocks, mean, std).eval()


IMAGES = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(1))


def test_forward_is_the_composition_of_the_blocks():
    network = chain()
    stem, middle, head = network.blocks.values()
    output = network(IMAGES)
    assert torch.equal(output.features["stem"], stem(IMAGES))
    assert torch.equal(output.features["middle"], middle(stem(IMAGES)))
    assert torch.equal(output.logits, head(middle(stem(IMAGES))))


def test_taps_choose_the_features():
    network = chain()
    assert list(network(IMAGES).features) == ["stem", "middle", "head"]
    assert list(network(IMAGES, taps=("head", "stem")).features) == ["stem", "head"]
    assert network(IMAGES, taps=()).features == {}
    assert torch.equal(network(IMAGES, taps=()).logits, network(IMAGES).logits)


def test_images_are_normalised_channel_by_channel():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    by_hand = torch.stack([(IMAGES[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    found = chain(mean, std)(IMAGES).logits
    torch.testing.assert_close(found, chain()(by_hand).logits, rtol=1e-5, atol=1e-6)


def test_another_normalisation_shares_the_weights():
    network = chain()
    other = network.with_normalisation((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    assert torch.equal(other(IMAGES).logits, chain((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))(IMAGES)[0])
    assert all(a is b for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert torch.equal(network.mean, torch.zeros(1, 1, 1, 1))


def test_spans_compose_to_the_whole():
    network = chain((0.5,), (0.25,))
    x = (IMAGES - network.mean) / network.std
    for cut in (1, 2):
        whole = network.span(cut, 3)(network.span(0, cut)(x))
        assert torch.equal(whole, network(IMAGES).logits)


def test_a_span_shares_its_weights():
    network = chain()
    assert network.span(0, 1)[0] is network.blocks["stem"]


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 4), (1, 1), (2, 1)])
def test_blocks_that_are_not_there_are_refused(start, stop):
    with pytest.raises(ValueError, match="the network has 3"):
        chain().span(start, stop)
    with pytest.raises(ValueError, match="the network has 3"):
        chain().swap(start, stop, nn.Identity())


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 2), (0, 2), (1, 3), (0, 3)])
def test_swapping_blocks_for_themselves_changes_no_bit(start, stop):
    network = chain((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    swapped = network.swap(start, stop, network.span(start, stop))
    assert torch.equal(swapped(IMAGES).logits, network(IMAGES).logits)
    assert len(swapped.names) == 3 - (stop - start) + 1
    assert swapped.training == network.training


def test_a_swap_leaves_the_rest_shared_and_the_original_whole():
    network = chain()
    before = network(IMAGES).logits
    swapped = network.swap(1, 2, nn.Softplus(), name="soft")
    assert swapped.names == ("stem", "soft", "head")
    assert swapped.blocks["stem"] is network.blocks["stem"]
    assert network.names == ("stem", "middle", "head")
    assert torch.equal(network(IMAGES).logits, before)
    assert chain().swap(0, 2, nn.Identity()).names == ("stem_to_middle", "head")


def test_a_swap_may_not_take_another_blocks_name():
    with pytest.raises(ValueError, match="'head' already"):
        chain().swap(0, 1, nn.Identity(), name="head")
    assert chain().swap(0, 1, nn.Identity(), name="stem").names == ("stem", "middle", "head")


def test_swaps_and_normalisations_stay_on_their_device():
    network = chain((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)).to("meta", torch.float64)
    images = torch.empty((2, 3, 8, 8), device="meta", dtype=torch.float64)
    for other in (
        network.swap(1, 2, nn.Identity()),
        network.with_normalisation((0.5,), (0.5,)),
    ):
        logits = other(images).logits
        assert (logits.device.type, logits.dtype, logits.shape) == (
            "meta",
            torch.float64,
            (2, 5),
        )


def test_normalisation_travels_with_the_weights():
    target = chain((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    target.load_state_dict(chain((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)).state_dict())
    torch.testing.assert_close(target.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(target.std.flatten(), torch.tensor([0.5, 0.6, 0.7]))


def test_dots_in_block_names_are_refused():
    with pytest.raises(KeyError, match=r"a\.b"):
        Network({"a.b": nn.Identity()})


def test_images_too_small_are_refused_with_what_would_do():
    require_min_size((3, 12, 40), 12, "lenet5")
    with pytest.raises(ConfigError, match="lenet5 needs images of at least 12x12, found 40x8"):
        require_min_size((3, 40, 8), 12, "lenet5")


# Heads beside the chain


def with_heads():
    heads = {
        name: nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, 5)) for name in ("stem", "middle")
    }
    return chain((0.5,), (2.0,)).with_heads(heads).eval()


def test_a_head_reads_its_block_where_it_is_tapped():
    network = with_heads()
    stem = network(IMAGES).features["stem"]
    assert list(network(IMAGES).features) == ["stem", "middle", "head"]
    found = network(IMAGES, taps=("stem_head",)).features
    assert list(found) == ["stem_head"]
    assert torch.equal(found["stem_head"], network.heads["stem"](stem))
    assert torch.equal(network(IMAGES).logits, chain((0.5,), (2.0,))(IMAGES).logits)


def test_without_heads_nothing_changes():
    assert not [name for name in chain().state_dict() if "heads" in name]


def test_heads_are_carried_along():
    network = with_heads()
    for other in (
        network.with_normalisation((0.5,), (2.0,)),
        network.swap(2, 3, network.blocks["head"]),
    ):
        assert dict(other.heads.items()) == dict(network.heads.items())
    one = network.swap(0, 1, nn.Conv2d(3, 4, 3), "stem")
    assert list(one.heads) == ["stem", "middle"]
    run = network.swap(0, 2, nn.Conv2d(3, 4, 3))
    assert list(run.heads) == ["stem_to_middle"]
    assert run.heads["stem_to_middle"] is network.heads["middle"]


def test_a_head_needs_its_block():
    with pytest.raises(ValueError, match="no place for a head on 'tail'"):
        chain().with_heads({"tail": nn.Flatten()})


def test_heads_are_no_part_of_what_a_network_costs():
    assert compute_costs(with_heads(), (3, 8, 8)) == compute_costs(chain((0.5,), (2.0,)), (3, 8, 8))
