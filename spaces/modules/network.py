"""Network: a named chain of blocks, the form in which every model is built, cut and trained."""

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
"""The form of a network's input."""


def input_form(shape: Shape) -> InputForm:
    """``text`` if the shape is one wide and more than one high, else ``images``."""
    return "text" if shape[2] == 1 < shape[1] else "images"


class Output(NamedTuple):
    """The output of a network for a batch of N images."""

    logits: Tensor
    """[N, classes], before any softmax."""
    features: dict[str, Tensor]
    """Block name -> output of the block, for each tap; heads have the names of :func:`head_tap`."""


def head_tap(block: str) -> str:
    """The name under which a head on ``block`` is tapped."""
    return f"{block}_head"


class Network(nn.Module):
    """A chain of named blocks; each takes the output of the block before it.

    A network may have heads: classifiers [N, classes] on the output of a block. A head runs only
    where it is tapped.

    Images are floats in 0..1, texts are word vectors. The network itself subtracts ``mean`` and
    divides by ``std`` (one value for each channel, or one for all). So a published network and a
    new one can take the same batch.

    Args:
        blocks: name -> block, in order; the last returns the logits [N, classes]. Names are
            plain identifiers that address taps, cuts and swaps.
        mean, std: per-channel normalisation of images in 0..1; none means 0 and 1.
        heads: name of a block -> the head on its output.
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
        """Blocks ``start`` .. ``stop`` - 1 as one module, which shares their weights."""
        self._check_span(start, stop)
        return nn.Sequential(*list(self.blocks.values())[start:stop])

    def swap(self, start: int, stop: int, replacement: nn.Module, name: str = "") -> Network:
        """A network with one block in place of blocks ``start`` .. ``stop`` - 1.

        All other blocks and their heads are shared with this network, not copied. A head on the
        last replaced block moves to the replacement; heads on the others are removed.
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
        """The same blocks, followed by one more."""
        blocks = {**dict(self.blocks.items()), name: block}
        network = Network(blocks, heads=dict(self.heads.items()))
        return self._with_own_state(network, self.mean, self.std)

    def with_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> Network:
        """The same blocks and heads with another normalisation."""
        network = Network(dict(self.blocks.items()), mean, std, dict(self.heads.items()))
        return self._with_own_state(network, network.mean, network.std)

    def with_heads(self, heads: Mapping[str, nn.Module]) -> Network:
        """The same blocks with ``heads`` (name of a block -> head) instead of the present ones."""
        network = Network(dict(self.blocks.items()), heads=heads)
        return self._with_own_state(network, self.mean, self.std)

    def _with_own_state(self, network: Network, mean: Tensor, std: Tensor) -> Network:
        """``network`` with a normalisation on this network's device, and in its mode."""
        network.mean, network.std = mean.to(self.mean), std.to(self.std)
        network.training = self.training
        return network

    def _check_span(self, start: int, stop: int) -> None:
        if not 0 <= start < stop <= len(self.blocks):
            raise ValueError(f"no blocks {start}..{stop}: the network has {len(self.blocks)}")


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the context; each module's own mode is restored afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def on_device_of(network: Network) -> Iterator[None]:
    """New layers are created on the network's device; torch's generator state is restored."""
    with torch.device(network.mean.device), torch.random.fork_rng(devices=[]):
        yield


class Family(Config):
    """A family of networks: its settings and how to build one. Each file in ``networks`` is one.

    ``sizes`` maps common names (``resnet20``) to settings. ``version`` rises when the same
    settings build another network. ``input_form`` is the form of the input. ``published_mean`` and
    ``published_std`` are the normalisation that all published weights of the family expect; None
    if publishers differ.
    """

    version: ClassVar[int] = 1
    input_form: ClassVar[InputForm] = "images"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    published_mean: ClassVar[tuple[float, ...] | None] = None
    published_std: ClassVar[tuple[float, ...] | None] = None

    def build(self, shape: Shape, classes: int) -> Network:
        """A new network for images of ``shape``, initialised from torch's global generator.

        Raises:
            ConfigError: the settings do not fit images of this shape.
        """
        raise NotImplementedError

    def rename_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of published weights to this product's names.

        Tensors that already have these names, and unknown tensors, are unchanged.
        """
        return dict(state)


def require_input_form(shape: Shape, expected: InputForm, label: str) -> None:
    """Refuse texts where a network is for images, and images where it is for texts.

    Raises:
        ConfigError: ``shape`` has the other form.
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
