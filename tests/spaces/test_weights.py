"""Published weights load whole or not at all, and a bad file is one clear line."""

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stillhouse.spaces.config.problems import ConfigError
from stillhouse.spaces.modules.state_dict import rename_tensors
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.networks import resolve
from stillhouse.spaces.weights import load_published, read_state
from tests.support.networks import CIFAR, random_images

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def build(spec, classes=10, seed=0):
    torch.manual_seed(seed)
    return NetworkSpec.parse(spec).build(CIFAR, classes).eval()


def load(network, spec, state, path="teacher.safetensors"):
    return load_published(network, resolve(spec)[1], state, path)


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


# Reading.


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_are_read(tmp_path, prefix):
    state = {f"{prefix}{key}": tensor for key, tensor in STATE.items()}
    save_file(state, tmp_path / "weights.safetensors")
    assert same(read_state(tmp_path / "weights.safetensors"), STATE)


@pytest.mark.parametrize(
    "saved",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"lr": 0.1}},
        {f"module.{key}": tensor for key, tensor in STATE.items()},
        {"state_dict": {f"module.{key}": tensor for key, tensor in STATE.items()}},
    ],
    ids=["plain", "state_dict", "model", "parallel", "both"],
)
@pytest.mark.parametrize("suffix", ["pt", "pth", "th"])
def test_what_torch_saved_is_read_and_unwrapped(tmp_path, saved, suffix):
    torch.save(saved, tmp_path / f"weights.{suffix}")
    assert same(read_state(str(tmp_path / f"weights.{suffix}")), STATE)


def under(prefix, state=None):
    return {f"{prefix}{name}": tensor for name, tensor in (state or STATE).items()}


@pytest.mark.parametrize(
    "saved",
    [
        under("_orig_mod."),
        under("module._orig_mod."),
        under("_orig_mod.module."),
        under("module.module."),
        {"n_averaged": torch.tensor(3), **under("module.")},
        {"epoch": 3, "model_state_dict": STATE},
        {"model": {"state_dict": STATE}},
        {"model": {"net": {"params": under("module.")}}},
        {"teacher": STATE, "epoch": 1},
        {"state_dict": STATE, "state_dict_ema": {k: v + 1 for k, v in STATE.items()}},
        {"weights": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "groups": []}},
    ],
    ids=lambda saved: "+".join(map(str, list(saved)[:2])),
)
def test_wrappings_are_taken_off_however_nested(tmp_path, saved):
    torch.save(saved, tmp_path / "weights.ckpt")
    assert same(read_state(tmp_path / "weights.ckpt"), STATE)


def test_a_part_that_was_compiled_alone_has_its_own_names(tmp_path):
    torch.save({"a._orig_mod.weight": torch.ones(1), "b": torch.ones(1)}, tmp_path / "w.pt")
    assert set(read_state(tmp_path / "w.pt")) == {"a.weight", "b"}


@pytest.mark.parametrize("prefix", ["model.", "net.backbone.", "student."])
def test_a_prefix_that_all_names_share_is_taken_off_where_they_fit_then(prefix):
    state = under(prefix, build("resnet8", seed=1).state_dict())
    loaded = load(build("resnet8"), "resnet8", state)
    expected = load(build("resnet8"), "resnet8", build("resnet8", seed=1).state_dict())
    assert torch.equal(loaded(random_images()).logits, expected(random_images()).logits)


def test_of_several_networks_none_is_guessed(tmp_path):
    torch.save({"teacher": STATE, "student": STATE}, tmp_path / "w.pt")
    assert "several networks (teacher, student)" in refused(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>404", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_was_saved_instead_of_weights_is_named(tmp_path, content, said, suffix):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    assert said in refused(tmp_path / f"w.{suffix}")


def test_a_whole_pickled_network_is_named_without_terminal_codes(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    message = refused(tmp_path / "w.pt")
    assert "save model.state_dict() alone" in message
    assert "\x1b" not in message


def changed(how):
    """The state of a network with every floating tensor changed."""
    state = build("resnet8", seed=1).state_dict()
    state = {k: v for k, v in state.items() if k not in ("mean", "std")}
    return {k: how(k, v) if v.is_floating_point() else v for k, v in state.items()}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (lambda _, v: (v * 127).to(torch.int8), "holds int8"),
        (lambda _, v: v.abs().to(torch.uint8), "holds uint8"),
        (lambda _, v: v > 0, "holds bool"),
        (lambda _, v: v.to(torch.complex64), "holds complex64"),
        (lambda _, v: v.to(torch.float8_e4m3fn), "holds float8_e4m3fn"),
        (lambda k, v: v * torch.nan if k.endswith("weight") else v, "not finite"),
        (lambda k, v: v / 0 if k.endswith("bias") else v, "not finite"),
        (lambda k, v: v - 2 if k.endswith("running_var") else v, "negative variance"),
        (lambda _, v: v.to_sparse() if v.dim() == 4 else v, "sparse"),
    ],
    ids=["int8", "uint8", "bool", "complex", "float8", "nan", "inf", "variance", "sparse"],
)
def test_what_is_no_weight_is_refused_in_one_line(how, said):
    with pytest.raises(ConfigError) as caught:
        load(build("resnet8"), "resnet8", changed(how))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_weights_of_other_precision_load(dtype):
    network = load(build("resnet8"), "resnet8", changed(lambda _, v: v.to(dtype)))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (torch.zeros(3), torch.zeros(3), "needs std above 0, found 0"),
        (torch.zeros(3), -torch.ones(3), "needs std above 0, found -1"),
        (torch.zeros(2), torch.ones(2), "has 2 values of mean and std, and images 3 channels"),
        (torch.full((3,), torch.nan), torch.ones(3), "needs finite numbers in mean and std"),
        (torch.zeros(0), torch.zeros(0), "needs one mean and one std for each channel, found none"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(mean, std, said):
    state = {**changed(lambda _, v: v), "mean": mean, "std": std}
    with pytest.raises(ConfigError, match=said):
        load(build("resnet8"), "resnet8", state)


def test_a_module_that_is_called_module_keeps_its_name(tmp_path):
    state = {"module.weight": torch.ones(1), "head.weight": torch.ones(1)}
    torch.save(state, tmp_path / "weights.pt")
    assert same(read_state(tmp_path / "weights.pt"), state)


def refused(path):
    with pytest.raises(ConfigError) as caught:
        read_state(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_missing_file_is_refused(tmp_path):
    assert "no such file" in refused(tmp_path / "none.pt")
    assert "no such file" in refused(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_short_is_refused(tmp_path, suffix, share):
    path = tmp_path / f"weights.{suffix}"
    state = {f"layer{i}.weight": torch.randn(20, 20) for i in range(5)}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "damaged" in refused(path)


@pytest.mark.parametrize("content", [b"not weights at all", bytes(1000), b"\xff" * 64])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_file_of_another_kind_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_flipped_bytes_is_read_or_refused(tmp_path, zipped):
    path = tmp_path / "weights.pt"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    content, dice = path.read_bytes(), random.Random(0)
    refusals = 0
    for _ in range(150):
        damaged = bytearray(content)
        damaged[dice.randrange(min(600, len(content)))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_state(path)
        except ConfigError:
            refusals += 1
    assert refusals > 10


class Trap:
    """Whoever unpickles it leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "save", [torch.save, lambda data, path: path.write_bytes(pickle.dumps(data, 2))]
)
def test_nothing_but_tensors_is_unpickled(tmp_path, save):
    save({"a": Trap(tmp_path / "trace")}, tmp_path / "weights.pt")
    refused(tmp_path / "weights.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "saved",
    [{}, [torch.ones(1)], torch.ones(1), {"lr": 0.1}, {0: torch.ones(1)}, {"state_dict": {}}],
)
def test_a_file_without_named_tensors_is_refused(tmp_path, saved):
    torch.save(saved, tmp_path / "weights.pt")
    assert "needs named tensors" in refused(tmp_path / "weights.pt")


# Renaming.


def test_the_longest_path_names_the_module():
    modules = {"layer": "stage", "layer.0": "first", "layer.0.down": "first.shortcut"}
    names = ["layer.0.down.weight", "layer.0.bn.bias", "layer.1.bias", "layer10.bias", "other"]
    assert list(rename_tensors(dict.fromkeys(names, torch.ones(1)), modules)) == [
        "first.shortcut.weight",
        "first.bn.bias",
        "stage.1.bias",
        "layer10.bias",
        "other",
    ]


# Loading.


@pytest.mark.parametrize("spec", ["resnet8", "wrn-10-1", "vgg8", "mobilenet_v2_x0_5", "cnn2"])
def test_our_own_weights_load(spec):
    source, target = build(spec, seed=1), build(spec)
    loaded = load(target, spec, source.state_dict())
    assert same(loaded.state_dict(), source.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(random_images()).logits, source(random_images()).logits)


def test_our_own_weights_bring_their_normalisation():
    source = build("resnet8", seed=1).with_normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    loaded = load(build("resnet8"), "resnet8", source.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded(random_images()).logits, source(random_images()).logits)


def test_published_weights_bring_their_familys_normalisation():
    torch.manual_seed(1)
    from torchvision.models import get_model
    from torchvision.transforms.functional import normalize

    reference = get_model("mobilenet_v3_small", weights=None, num_classes=10).eval()
    loaded = load(build("tv_mobilenet_v3_small"), "tv_mobilenet_v3_small", reference.state_dict())
    with torch.no_grad():
        seen = normalize(random_images(), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        torch.testing.assert_close(loaded(random_images()).logits, reference(seen))


def test_without_a_published_normalisation_the_networks_own_stays():
    state = {k: t for k, t in build("resnet8", seed=1).state_dict().items() if "blocks." in k}
    network = build("resnet8").with_normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    loaded = load(network, "resnet8", state)
    assert torch.equal(loaded.mean, network.mean)
    assert torch.equal(loaded.std, network.std)


def test_counters_of_batches_may_be_absent():
    state = {k: t for k, t in build("resnet8", seed=1).state_dict().items() if "num_batch" not in k}
    loaded = load(build("resnet8"), "resnet8", state)
    assert torch.equal(loaded.blocks["stem"].conv.weight, state["blocks.stem.conv.weight"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("blocks.head.fc.bias"), "missing: blocks.head.fc.bias"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda s: s.update({"blocks.head.fc.bias": torch.ones(100)}),
            "of another shape: blocks.head.fc.bias is 100 and should be 10",
        ),
        (lambda s: s.update(mean=s.pop("std")), "unexpected: mean"),
    ],
    ids=["missing", "unexpected", "shape", "half a normalisation"],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change, says):
    network = build("resnet8")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = build("resnet8", seed=1).state_dict()
    change(state)
    with pytest.raises(ConfigError) as caught:
        load(network, "resnet8", state)
    assert str(caught.value) == f"teacher.safetensors: does not fit this network: {says}"
    assert same(network.state_dict(), before)


def test_many_mistakes_are_one_line():
    with pytest.raises(ConfigError) as caught:
        load(build("resnet8"), "resnet8", build("vgg8").state_dict())
    message = str(caught.value)
    assert "missing: blocks.stem.conv.weight" in message
    assert "unexpected: blocks.conv1_1.conv.weight" in message
    assert "and 32 more" in message
    assert "\n" not in message
    assert len(message) < 600


# The names other projects publish, written out by hand.


def published_like(spec, names):
    """Our weights under the names of another project."""
    return {names(key): t for key, t in build(spec, seed=1).state_dict().items() if "blocks" in key}


def crd_resnet(key):
    key = key.removeprefix("blocks.").replace("shortcut", "downsample")
    for ours, theirs in (("stem.conv", "conv1"), ("stem.bn", "bn1"), ("head.fc", "fc")):
        key = key.replace(ours, theirs)
    for stage in (1, 2, 3):
        key = key.replace(f"stage{stage}_1", f"layer{stage}.0")
    return key


def crd_wrn(key):
    key = key.removeprefix("blocks.").replace("shortcut", "convShortcut")
    for ours, theirs in (("stem", "conv1"), ("head.bn", "bn1"), ("head.fc", "fc")):
        key = key.replace(ours, theirs)
    for stage in (1, 2, 3):
        key = key.replace(f"stage{stage}_1", f"block{stage}.layer.0")
    return key


def crd_vgg(key):
    key = key.removeprefix("blocks.").replace("head.fc", "classifier")
    for stage in range(1, 6):
        for unit in (1, 2):
            for layer, index in (("conv", 0), ("bn", 1)):
                ours = f"conv{stage}_{unit}.{layer}"
                key = key.replace(ours, f"block{stage - 1}.{3 * (unit - 1) + index}")
    return key


@pytest.mark.parametrize(
    ("spec", "names", "some"),
    [
        ("resnet8x4", crd_resnet, "layer2.0.downsample.1.running_mean"),
        ("wrn-10-1", crd_wrn, "block2.layer.0.convShortcut.weight"),
        ("vgg13", crd_vgg, "block4.4.weight"),
    ],
)
def test_weights_of_crd_load(spec, names, some):
    state = published_like(spec, names)
    assert some in state
    assert not any("blocks" in key or "stage" in key for key in state)
    loaded = load(build(spec), spec, state)
    with torch.no_grad():
        assert torch.equal(
            loaded(random_images()).logits, build(spec, seed=1)(random_images()).logits
        )


# Real files.

DATA = os.environ.get("STILLHOUSE_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="STILLHOUSE_TEST_DATA names no folder of real data")
@pytest.mark.parametrize("depth", [20, 32, 56])
def test_the_published_cifar_teachers_load(depth):
    path = Path(str(DATA), "teachers", f"cifar10-resnet{depth}-option-a.safetensors")
    state = read_state(path)
    spec = {f"resnet{depth}": {"shortcut": "A"}}
    loaded = load(build(spec), spec, state)
    assert torch.equal(loaded.blocks["stem"].conv.weight, state["conv1.weight"])
    last = loaded.blocks[f"stage3_{(depth - 2) // 6}"]
    assert torch.equal(
        last.bn2.running_var, state[f"layer3.{(depth - 2) // 6 - 1}.bn2.running_var"]
    )
    assert torch.equal(loaded.blocks["head"].fc.bias, state["linear.bias"])
    with pytest.raises(ConfigError, match=r"missing: blocks\.stage2_1\.shortcut"):
        load(build(f"resnet{depth}"), f"resnet{depth}", state)


def test_loading_shares_the_networks_blocks():
    network = build("tv_mobilenet_v3_small")
    state = {k: t for k, t in network.state_dict().items() if "blocks." in k}
    loaded = load(network, "tv_mobilenet_v3_small", state)
    assert isinstance(loaded.blocks["head"], nn.Module)
    assert loaded.blocks["head"] is network.blocks["head"]
