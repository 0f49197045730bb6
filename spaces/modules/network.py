"""Network: a named chain of blocks, the one form in which every model is built, cut and taught."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from stillhouse.spaces.config.base import Config
from stillhouse.spaces.config.problems import ConfigError

Shape = tuple[int, int, int]
"""(channels, height, width) of one image; (dimensions, words, 1) of one text."""
InputForm = Literal["images", "text"]
"""What examples are."""


def input_form(shape: Shape) -> InputForm:
    """Texts are one pixel wide, and more than one high."""
    return "text" if shape[2] == 1 < shape[1] else "images"


class Output(NamedTuple):
    """What a network says of a batch of N images."""

    logits: Tensor
    """[N, classes], before any softmax."""
    features: dict[str, Tensor]
    """Block name -> that block's output, for the taps asked for; heads under :func:`head_tap`."""


def head_tap(block: str) -> str:
    """The name under which a head on ``block`` is tapped."""
    return f"{block}_head"


class Network(nn.Module):
    """A chain of named blocks, each fed with what the one before it returned.

    Beside the chain there may be heads: classifiers [N, classes] that read a block's output. One
    runs where it is tapped and nowhere else; a network without any is none the worse.

    Images enter as float in 0..1, texts as word vectors; the network itself subtracts ``mean``
    and divides by ``std`` (one value a channel, or one for all), so that a published network and
    a new one can look at the same batch.

    Args:
        blocks: name -> block, in order; the last returns the logits [N, classes]. Names are
            plain identifiers: they address taps, cuts and swaps.
        mean, std: per-channel normalisation of images in 0..1; none means 0 and 1.
        heads: name of a block -> the head that reads it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        blocks: Mapping[str, nn.Module],
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        heads: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)
        self.heads = nn.ModuleDict(heads or {})
        for name in self.heads:
            if name not in self.blocks or head_tap(name) in self.blocks:
                raise ValueError(f"no place for a head on {name!r} among {list(self.blocks)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    @property
    def names(self) -> tuple[str, ...]:
        """The blocks' names in order."""
        return tuple(self.blocks)

    def forward(self, images: Tensor, taps: Collection[str] | None = None) -> Output:
        """Logits, and the outputs of the blocks and heads named in ``taps`` (None: all blocks)."""
        tapped = self.names if taps is None else taps
        features = {}
        x = (images - self.mean) / self.std
        for name, block in self.blocks.items():
            x = block(x)
            if name in tapped:
                features[name] = x
            if name in self.heads and head_tap(name) in tapped:
                features[head_tap(name)] = self.heads[name](x)
        return Output(x, features)

    def span(self, start: int, stop: int) -> nn.Sequential:
        """Blocks ``start`` .. ``stop`` - 1 as one module; it shares their weights."""
        self._check_span(start, stop)
        return nn.Sequential(*list(self.blocks.values())[start:stop])

    def swap(self, start: int, stop: int, replacement: nn.Module, name: str = "") -> Network:
        """A network with one block in place of blocks ``start`` .. ``stop`` - 1.

        All other blocks and their heads are shared with this network, not copied. A head on the
        last of the replaced blocks reads the replacement's output, those before it go.
        """
        self._check_span(start, stop)
        names = list(self.names)
        name = name or f"{names[start]}_to_{names[stop - 1]}"
        if name in names[:start] + names[stop:]:
            raise ValueError(f"another block is called {name!r} already")
        blocks: dict[str, nn.Module] = {n: self.blocks[n] for n in names[:start]}
        blocks[name] = replacement
        blocks.update({n: self.blocks[n] for n in names[stop:]})
        new_names = {n: n for n in names[:start] + names[stop:]} | {names[stop - 1]: name}
        heads = {new_names[n]: head for n, head in self.heads.items() if n in new_names}
        return self._with_own_state(Network(blocks, heads=heads), self.mean, self.std)

    def with_block_appended(self, name: str, block: nn.Module) -> Network:
        """The same blocks and one more behind them."""
        blocks = {**dict(self.blocks.items()), name: block}
        network = Network(blocks, heads=dict(self.heads.items()))
        return self._with_own_state(network, self.mean, self.std)

    def with_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> Network:
        """The same blocks and heads behind another normalisation."""
        network = Network(dict(self.blocks.items()), mean, std, dict(self.heads.items()))
        return self._with_own_state(network, network.mean, network.std)

    def with_heads(self, heads: Mapping[str, nn.Module]) -> Network:
        """The same blocks with these heads beside them, name of a block -> head."""
        network = Network(dict(self.blocks.items()), heads=heads)
        return self._with_own_state(network, self.mean, self.std)

    def _with_own_state(self, network: Network, mean: Tensor, std: Tensor) -> Network:
        """``network``, normalising on this one's device, and in the same mode."""
        network.mean, network.std = mean.to(self.mean), std.to(self.std)
        network.training = self.training
        return network

    def _check_span(self, start: int, stop: int) -> None:
        if not 0 <= start < stop <= len(self.blocks):
            raise ValueError(f"no blocks {start}..{stop}: the network has {len(self.blocks)}")


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module's own mode comes back afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def on_device_of(network: Network) -> Iterator[None]:
    """New layers lie on the device of a network, and torch's generator stays where it is."""
    with torch.device(network.mean.device), torch.random.fork_rng(devices=[]):
        yield


class Family(Config):
    """A family of networks: its settings, and how to build one. One file in ``networks`` each.

    ``sizes`` maps the names people use (``resnet20``) to the settings they stand for.
    ``version`` rises when the same settings come to mean another network. ``input_form`` says
    whether it is for images or for texts. ``published_mean`` and ``published_std`` are the
    normalisation that all published weights of the family expect, where there is one; none where
    publishers differ.
    """

    version: ClassVar[int] = 1
    input_form: ClassVar[InputForm] = "images"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    published_mean: ClassVar[tuple[float, ...] | None] = None
    published_std: ClassVar[tuple[float, ...] | None] = None

    def build(self, shape: Shape, classes: int) -> Network:
        """A fresh network for images of ``shape``, initialised from torch's global generator.

        Raises:
            ConfigError: the settings do not fit images of this shape.
        """
        raise NotImplementedError

    def rename_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of published weights to this product's names.

        A state dict that already has them comes back as it is; so does a tensor that nobody knows.
        """
        return dict(state)


def require_input_form(shape: Shape, expected: InputForm, label: str) -> None:
    """Refuse texts where a network is for images, and images where it is for texts.

    Raises:
        ConfigError: ``shape`` is one of the others.
    """
    actual = input_form(shape)
    if actual != expected:
        description = f"{shape[1]} words of {shape[0]} dimensions"
        if actual == "images":
            description = f"images of {shape[1]}x{shape[2]}"
        raise ConfigError(
            f"{label} reads {expected}, and the data holds {description}; choose another network"
        )


def require_min_size(shape: Shape, min_pixels: int, label: str) -> None:
    """Refuse images too small for a network.

    Raises:
        ConfigError: ``shape`` is lower or narrower than ``min_pixels`` pixels.
    """
    _, height, width = shape
    if min(height, width) < min_pixels:
        raise ConfigError(
            f"{label} needs images of at least {min_pixels}x{min_pixels}, found {height}x{width}"
        )
