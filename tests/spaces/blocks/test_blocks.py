"""Replacement blocks: every kind, in every interval of every family, keeps the contract."""

from copy import deepcopy
from functools import lru_cache
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.blocks import BLOCKS
from stillhouse.spaces.config.base import Config, fingerprint
from stillhouse.spaces.config.domains import Choice, Integers
from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.cuts import cut_positions, intervals, narrowed_shape
from stillhouse.spaces.modules.layers import ConvUnit, InvertedResidual, ResidualBlock
from stillhouse.spaces.network_spec import NetworkSpec

IMAGE = (3, 16, 16)
FAMILIES = {
    "resnet20": {"resnet20": {"width": 0.5}},
    "cnn10": {"cnn10": {"width": 0.5}},
    "vgg11": {"vgg11": {"width": 0.25}},
    "wide_resnet": "wrn-10-1",
    "mobilenet": {"mobilenet": {"width": 0.35}},
}
ACTIVATED = ("resnet20", "cnn10", "vgg11")
COPIES = ("kept", "shallower", "pruned")
EVERYWHERE = [(kind, family) for kind in BLOCKS.names() for family in FAMILIES]


@lru_cache
def teacher(family):
    """A frozen network with batch norms as training might leave them."""
    torch.manual_seed(0)
    network = NetworkSpec.parse(FAMILIES[family]).build(IMAGE, 10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2)
    return network.eval().requires_grad_(False)


@lru_cache
def places(family):
    """(span, inputs, outputs) of every interval of up to three blocks, of long networks a third."""
    network = teacher(family)
    found = cut_positions(network, IMAGE)
    chosen = intervals(found, 3)[:: 1 if len(found) < 12 else 3]
    return [(network.span(i.start, i.stop), found[i.start], found[i.stop]) for i in chosen]


def built(spec, *place, seed=3):
    torch.manual_seed(seed)
    return BlockSpec.parse(spec).build(*place)


def replacements(kind, family, width=1.0):
    """(replacement, span, inputs, outputs) wherever a kind of block applies."""
    for span, inputs, outputs in places(family):
        place = (span, narrowed_shape(inputs, width), narrowed_shape(outputs, width))
        if applies(kind, span, inputs, outputs):
            yield built(kind, *place), *place
        else:
            with pytest.raises(ConfigError, match=kind) as caught:
                built(kind, *place)
            assert "\n" not in str(caught.value)


def applies(kind, span, inputs, _outputs):
    """Whether blocks of a kind, at default settings and full width, fit."""
    if kind == "shallower":
        x, changes = torch.zeros((1, *inputs)), 0
        for block in span:
            before, x = x.shape, block(x)
            changes += before != x.shape
        return len(span) > 1 and changes <= 1
    if kind == "pruned":
        single = [b for b in span if isinstance(b, InvertedResidual) and len(b.layers) < 3]
        plain = [b for b in span if isinstance(b, nn.Sequential)]
        return len(plain) > 1 or len(single) + len(plain) < len(span)
    return True


def feature(shape, batch=4):
    return torch.randn((batch, *shape), generator=torch.Generator().manual_seed(1))


def tensors(module):
    return list(chain(module.parameters(), module.buffers()))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


# The contract of every kind.


@pytest.mark.parametrize(("kind", "family"), EVERYWHERE)
def test_a_replacement_fits_learns_and_leaves_the_teacher_alone(kind, family):
    network = teacher(family)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    theirs = {t.untyped_storage().data_ptr() for t in tensors(network)}
    for replacement, _, inputs, outputs in replacements(kind, family):
        assert all(module.training for module in replacement.modules())
        assert not theirs & {t.untyped_storage().data_ptr() for t in tensors(replacement)}
        x = feature(inputs)
        y = replacement(x)
        assert y.shape[1:] == outputs
        assert torch.equal(x, feature(inputs))
        if y.requires_grad:
            (y * feature(outputs)).sum().backward()
        for name, parameter in replacement.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            parameter.data -= 0.1 * parameter.grad
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(m.training for m in network.modules())
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("kind", "family"), EVERYWHERE)
def test_a_replacement_is_its_seed_and_its_state(kind, family):
    for replacement, *place in list(replacements(kind, family))[::4]:
        again, other = built(kind, *place), built(kind, *place, seed=4)
        state = replacement.state_dict()
        assert list(state) == list(again.state_dict())
        assert all(torch.equal(t, state[name]) for name, t in again.state_dict().items())
        other.load_state_dict(state)
        x, copy = feature(place[1]), deepcopy(replacement)
        expected = replacement.eval()(x)
        assert torch.equal(other.eval()(x), expected)
        assert torch.equal(copy.eval()(x), expected)


@pytest.mark.parametrize(("kind", "family"), EVERYWHERE)
def test_boundaries_may_be_narrower_but_not_for_copies(kind, family):
    for span, inputs, outputs in places(family)[::3]:
        for shapes in (
            (narrowed_shape(inputs, 0.5), narrowed_shape(outputs, 0.5)),
            (narrowed_shape(inputs, 0.5), outputs),
            (inputs, narrowed_shape(outputs, 0.5)),
        ):
            if kind in COPIES:
                with pytest.raises(ConfigError, match=f"{kind}: .* all its channels"):
                    built(kind, span, *shapes)
            else:
                replacement = built(kind, span, *shapes)
                assert replacement(feature(shapes[0])).shape[1:] == shapes[1]
                assert list(replacement.parameters())


@pytest.mark.parametrize("kind", BLOCKS.names())
def test_shapes_that_are_not_the_spans_are_refused(kind):
    span = teacher("resnet20").span(1, 4)
    for inputs, outputs in [
        ((9, 16, 16), (8, 16, 16)),
        ((8, 16, 16), (9, 16, 16)),
        ((8, 16, 16), (8, 8, 8)),
        ((8, 8, 8), (8, 16, 16)),
    ]:
        with pytest.raises(ConfigError, match="does not allow a replacement") as caught:
            built(kind, span, inputs, outputs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", BLOCKS.names())
def test_searched_settings_declare_values_that_are_allowed(kind):
    block = BLOCKS.load(kind)
    assert set(block.search_space()) == set(block.model_fields)
    for field, domain in block.search_space().items():
        assert isinstance(domain, Choice | Integers)
        for value in domain.grid(0):
            assert getattr(block.parse({field: value}), field) == value


def test_every_value_of_every_setting_builds():
    place = next(p for p in places("resnet20") if p[1][1] != p[2][1] and len(p[0]) == 3)
    for kind in set(BLOCKS.names()) - {"shallower"}:
        for field, domain in BLOCKS.load(kind).search_space().items():
            for value in domain.grid(0):
                replacement = built({kind: {field: value}}, *place)
                assert replacement(feature(place[1])).shape[1:] == place[2]


@pytest.mark.parametrize("kind", BLOCKS.names())
def test_costs_can_be_told_without_numbers(kind):
    span, inputs, outputs = places("resnet20")[1]
    empty = deepcopy(span).to("meta")
    with torch.device("meta"):
        replacement = BlockSpec.parse(kind).build(empty, inputs, outputs)
    assert all(t.is_meta for t in tensors(replacement))
    assert compute_costs(replacement, inputs) == compute_costs(
        built(kind, span, inputs, outputs), inputs
    )


# What the kinds say, where the teacher's blocks end in a ReLU and where they do not.


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["bottleneck", "depthwise", "ghost", "grouped"])
def test_signs_are_those_of_the_features_to_be_learnt(kind, family):
    for span, inputs, outputs in places(family)[::3]:
        linear = isinstance(span[-1], InvertedResidual) or family == "wide_resnet"
        y = built(kind, span, inputs, outputs)(feature(inputs))
        assert bool((y < 0).any()) == linear
        narrow = narrowed_shape(outputs, 0.5)
        assert (built(kind, span, inputs, narrow)(feature(inputs)) < 0).any()


@pytest.mark.parametrize("family", ACTIVATED)
@pytest.mark.parametrize("spec", ["depthwise", "ghost", {"pruned": {"ratio": 0.75}}], ids=str)
def test_fewer_parameters_than_the_span(spec, family):
    (kind,) = [spec] if isinstance(spec, str) else spec
    for place in places(family):
        if applies(kind, *place):
            assert parameters(built(spec, *place)) < parameters(place[0])


def test_strides_of_several_halvings_reach_every_size():
    torch.manual_seed(0)
    blocks = [ResidualBlock(4, 4, 2) for _ in range(3)]
    for height in range(1, 18):
        inputs = (4, height, 34 - height)
        with torch.no_grad():
            outputs = tuple(nn.Sequential(*blocks)(feature(inputs)).shape[1:])
        for kind in ("bottleneck", "depthwise", "ghost", "grouped", "identity"):
            replacement = built(kind, nn.Sequential(*blocks), inputs, outputs)
            with torch.no_grad():
                assert replacement.eval()(feature(inputs)).shape[1:] == outputs


def test_a_size_that_no_stride_reaches_is_refused():
    span = nn.Sequential(nn.Conv2d(4, 4, 2))
    with pytest.raises(ConfigError, match="no stride leads from 5x5 to 4x4"):
        built("depthwise", span, (4, 5, 5), (4, 4, 4))


# kept and shallower.


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_blocks_reassemble_to_the_teacher_bit_for_bit(family):
    network, found = teacher(family), cut_positions(teacher(family), IMAGE)
    images = torch.rand((4, *IMAGE), generator=torch.Generator().manual_seed(2))
    expected = network(images, taps=()).logits
    for longest in (1, 2, 3):
        student = network
        last, cuts = max(found), [*range(1, max(found), longest), max(found)]
        for start in reversed(cuts[:-1]):
            stop = min(start + longest, last)
            kept = built("kept", network.span(start, stop), found[start], found[stop])
            student = student.swap(start, stop, kept)
        assert len(student.blocks) == 2 + len(cuts) - 1
        assert torch.equal(student.eval()(images, taps=()).logits, expected)


def test_kept_says_what_the_span_says_in_every_interval():
    for family in FAMILIES:
        for span, inputs, outputs in places(family):
            kept = built("kept", span, inputs, outputs).eval()
            assert torch.equal(kept(feature(inputs)), span(feature(inputs)))


def test_shallower_keeps_what_changes_the_shape_and_spreads_the_rest():
    network, found = teacher("resnet20"), cut_positions(teacher("resnet20"), IMAGE)

    def chosen(depth, start, stop):
        span = network.span(start, stop)
        copies = built({"shallower": {"depth": depth}}, span, found[start], found[stop])
        states = [list(block.state_dict().values()) for block in span]
        return [
            next(
                place
                for place, state in enumerate(states, start)
                if len(state) == len(block.state_dict())
                and all(map(torch.equal, state, block.state_dict().values()))
            )
            for block in copies
        ]

    assert chosen(1, 1, 4) == [2]
    assert chosen(2, 1, 4) == [1, 3]
    assert chosen(1, 2, 5) == [4]
    assert chosen(2, 2, 5) == [3, 4]
    assert chosen(2, 3, 9) == [4, 7]
    assert chosen(3, 3, 9) == [4, 6, 7]
    with pytest.raises(ConfigError, match="depth below that of the 3 blocks"):
        chosen(3, 1, 4)
    with pytest.raises(ConfigError, match="2 of these blocks change the shape"):
        chosen(1, 3, 9)


# pruned.

INNER = {"resnet20": "bn1", "wide_resnet": "bn2", "mobilenet": "layers.1.bn"}


@pytest.mark.parametrize("family", FAMILIES)
def test_pruning_nothing_changes_nothing(family):
    for place in places(family):
        if applies("pruned", *place):
            pruned = built({"pruned": {"ratio": 1.0}}, *place).eval()
            x = feature(place[1])
            assert parameters(pruned) == parameters(place[0])
            assert torch.equal(pruned(x), place[0](x))


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_that_say_nothing_are_pruned_first(family):
    for span, inputs, outputs in places(family)[2:12]:
        silenced = deepcopy(span)
        blocks = list(silenced) if family in INNER else list(silenced)[:-1]
        for block in blocks:
            norm = block.get_submodule(INNER.get(family, "bn"))
            count = norm.num_features // 2
            silent = torch.randperm(norm.num_features)[:count]
            norm.weight[silent] = 0.0
            norm.bias[silent] = 0.0
        if not blocks:
            continue
        pruned = built("pruned", silenced, inputs, outputs).eval()
        x = feature(inputs)
        torch.testing.assert_close(pruned(x), silenced(x), rtol=1e-4, atol=1e-5)
        assert parameters(pruned) < parameters(span)


def test_importance_is_the_filters_norm_times_its_scale():
    torch.manual_seed(0)
    block = ResidualBlock(4, 4)
    with torch.no_grad():
        block.conv1.weight.copy_(torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1).expand(4, 4, 3, 3))
        block.bn1.weight.copy_(torch.tensor([-9.0, 3.0, 1.0, 2.0]))
    (pruned,) = built("pruned", nn.Sequential(block), (4, 8, 8), (4, 8, 8))
    assert torch.equal(pruned.bn1.weight, torch.tensor([-9.0, 2.0]))
    assert torch.equal(pruned.conv1.weight, block.conv1.weight[[0, 3]])
    assert torch.equal(pruned.conv2.weight, block.conv2.weight[:, [0, 3]])
    assert (pruned.conv1.out_channels, pruned.conv2.in_channels) == (2, 2)


def test_torchvisions_residual_blocks_can_be_pruned_too():
    for name in ("tv_resnet18", "tv_resnet50"):
        with torch.device("meta"):
            network = NetworkSpec.parse(name).build((3, 64, 64), 10)
        found = cut_positions(network, (3, 64, 64))
        pruned = built("pruned", network.span(1, 3), found[1], found[3])
        assert (
            compute_costs(pruned, found[1]).flops
            < 0.7 * compute_costs(network.span(1, 3), found[1]).flops
        )


# New blocks, in closed form and against references.


def conv(inputs, outputs, kernel=1, groups=1):
    """Parameters of a convolution and its batch norm."""
    return kernel**2 * inputs * outputs // groups + 2 * outputs


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("kept", 5 * conv(32, 32, 3) + conv(16, 32, 3) + conv(16, 32)),
        ({"shallower": {"depth": 2}}, 3 * conv(32, 32, 3) + conv(16, 32, 3) + conv(16, 32)),
        ("bottleneck", conv(16, 8) + conv(8, 8, 3) + conv(8, 32) + conv(16, 32)),
        (
            {"bottleneck": {"ratio": 0.5, "kernel": 5, "depth": 2}},
            conv(16, 16) + 2 * conv(16, 16, 5) + 2 * conv(16, 32) + conv(32, 16) + conv(16, 32),
        ),
        ("depthwise", conv(16, 16, 3, 16) + conv(16, 32)),
        (
            {"depthwise": {"kernel": 5, "depth": 2}},
            conv(16, 16, 5, 16) + conv(16, 32) + conv(32, 32, 5, 32) + conv(32, 32),
        ),
        ("ghost", conv(16, 16, 3, 16) + conv(16, 16) + conv(16, 16, 3, 16)),
        ({"ghost": {"ratio": 4}}, conv(16, 16, 3, 16) + conv(16, 8) + conv(8, 24, 3, 8)),
        ("grouped", conv(16, 32, 3, 4) + conv(32, 32)),
        ({"grouped": {"mixing": "shuffle"}}, conv(16, 32, 3, 4) + conv(32, 32, 1, 4)),
        (
            {"pruned": {"ratio": 0.5}},
            conv(16, 16, 3) + 3 * conv(16, 32, 3) + conv(16, 32) + 2 * conv(32, 16, 3),
        ),
        ("identity", conv(16, 32)),
    ],
    ids=str,
)  # fmt: skip
def test_parameters_in_closed_form(spec, expected):
    network = NetworkSpec.parse("resnet20").build((3, 32, 32), 10)
    replacement = built(spec, network.span(4, 7), (16, 32, 32), (32, 16, 16))
    assert parameters(replacement) == expected


def norm(x, unit):
    bn = unit.bn
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def test_a_ghost_module_is_that_of_the_paper():
    """Equations 3 and 4, both parts activated; the third channel of the last is cut off."""
    span = nn.Sequential(ConvUnit(8, 5))
    replacement = built({"ghost": {"ratio": 2}}, span, (8, 6, 6), (5, 6, 6)).eval()
    unit = replacement[0]
    assert unit.shortcut is None
    primary, cheap = unit.branch.primary, unit.branch.cheap
    assert primary.conv.weight.shape == (3, 8, 1, 1)
    x = feature((8, 6, 6))
    dear = F.relu(norm(F.conv2d(x, primary.conv.weight), primary))
    ghosts = F.relu(norm(F.conv2d(dear, cheap.conv.weight, padding=1, groups=3), cheap))
    torch.testing.assert_close(replacement(x), torch.cat([dear, ghosts], dim=1)[:, :5])


def test_a_bottleneck_adds_its_input():
    span = nn.Sequential(ResidualBlock(8, 8))
    replacement = built("bottleneck", span, (8, 6, 6), (8, 6, 6)).eval()
    last = replacement[0].branch[-1].bn
    nn.init.zeros_(last.weight)
    x = feature((8, 6, 6))
    assert torch.equal(replacement(x), F.relu(x))


def test_in_a_shuffle_every_output_sees_every_group():
    span = nn.Sequential(ResidualBlock(8, 8))
    narrow = ((4, 5, 5), (8, 5, 5))
    replacement = built({"grouped": {"groups": 2, "mixing": "shuffle"}}, span, *narrow).eval()
    x = feature((4, 5, 5), batch=1).requires_grad_()
    for channel in range(8):
        (grad,) = torch.autograd.grad(replacement[0].branch(x)[0, channel].sum(), x)
        assert grad[0, :2].any()
        assert grad[0, 2:].any()


def test_a_projection_looks_at_every_pixel():
    span = nn.Sequential(ResidualBlock(4, 4, 2), ResidualBlock(4, 8, 2))
    replacement = built("identity", span, (4, 7, 7), (8, 2, 2)).eval()
    x = feature((4, 7, 7)).requires_grad_()
    replacement(x).sum().backward()
    assert (x.grad != 0).all()


def test_identity_is_the_identity_only_where_channels_mean_the_same():
    span = teacher("resnet20").span(1, 3)
    assert isinstance(built("identity", span, (8, 16, 16), (8, 16, 16)), nn.Identity)
    assert parameters(built("identity", span, (4, 16, 16), (4, 16, 16))) == conv(4, 4)


@pytest.mark.parametrize(
    ("spec", "channels", "says"),
    [
        ("grouped", 6, "multiples of 4 channels"),
        ({"ghost": {"ratio": 4}}, 3, "ratio of 4"),
        ("pruned", 8, "no channels of their own"),
        ("shallower", 8, "needs a depth below"),
    ],
)
def test_a_kind_that_does_not_apply_says_why(spec, channels, says):
    shape = (channels, 6, 6)
    with pytest.raises(ConfigError, match=says):
        built(spec, nn.Sequential(ConvUnit(8, 8)), shape, shape)


# BlockSpec.


def test_three_ways_to_write_a_block_are_one():
    flat = BlockSpec.parse({"kind": "bottleneck", "ratio": 0.5})
    assert flat == BlockSpec.parse({"bottleneck": {"ratio": 0.5}}) == BlockSpec.parse(flat)
    assert flat.plain() == {"kind": "bottleneck", "ratio": 0.5, "kernel": 3, "depth": 1}
    assert flat.identity() == {**flat.plain(), "version": 1}
    assert flat.label == "bottleneck-ratio0_5"
    assert BlockSpec.parse("bottleneck").label == "bottleneck"
    assert BlockSpec.parse(flat.plain()) == flat
    assert hash(BlockSpec.parse("ghost")) == hash(BlockSpec.parse({"ghost": {"ratio": 2}}))


def test_a_block_is_a_value_that_settings_can_hold():
    class Candidates(Config):
        blocks: tuple[BlockSpec, ...]

    found = Candidates.parse({"blocks": ["kept", {"ghost": {"kernel": 5}}]})
    assert [spec.label for spec in found.blocks] == ["kept", "ghost-kernel5"]
    assert Candidates.parse(found.plain()) == found
    assert found.fingerprint() == fingerprint(found.plain())
    with pytest.raises(ConfigError, match=r"blocks\.1.*did you mean 'ghost'"):
        Candidates.parse({"blocks": ["kept", "gost"]})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("bottelneck", "did you mean 'bottleneck'"),
        ({"ghost": {"ratios": 2}}, "did you mean 'ratio'"),
        ({"kind": "depthwise", "kernel": 4}, "3, 5 or 7"),
        ({"pruned": {"ratio": 1.5}}, "less than or equal to 1"),
        ({"ghost": 2}, "needs a kind of block"),
        (["ghost"], "needs a kind of block"),
    ],
)
def test_a_wrong_block_is_one_clear_problem(data, says):
    with pytest.raises(ConfigError, match=says) as caught:
        BlockSpec.parse(data)
    assert "\n" not in str(caught.value)
