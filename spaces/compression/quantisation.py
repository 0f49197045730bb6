"""Quantising: what a whole network needs whose layers are to compute with few bits."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, fx, nn

from stillhouse.spaces.compression.layer_sizes import check_weights
from stillhouse.spaces.compression.quantised_layers import (
    Quantised,
    QuantisedConv,
    QuantisedLinear,
    Rounding,
    observer,
    operators_of_integers,
    packed,
)
from stillhouse.spaces.modules.network import Network


def quantise(network: nn.Module, bits: int, leaving: Collection[str] = ()) -> None:
    """Quantise all convolutions and linear layers, in place.

    What enters them, and what leaves those with the paths ``leaving``, is to be calibrated. Batch
    norm stays as it is: fold it first.

    Raises:
        ConfigError: the network has other layers with weights, or none at all.
    """
    check_quantisable(network)
    put_layers(network, bits, leaving)
    for _, layer in quantised_layers(network):
        layer.rescale()


def put_layers(network: nn.Module, bits: int, leaving: Collection[str] = ()) -> None:
    """Put quantised layers in place of convolutions and linear layers; ranges are to be loaded.

    Those that are quantised already get so many bits.
    """
    for path, layer in list(network.named_modules()):
        if isinstance(layer, Quantised):
            layer.bits = bits
        elif type(layer) is nn.Conv2d:
            _put(network, path, QuantisedConv(layer, bits, path in leaving))
        elif type(layer) is nn.Linear:
            _put(network, path, QuantisedLinear(layer, bits, path in leaving))


def check_quantisable(network: nn.Module) -> None:
    """Whether all that has weights is a convolution of images or a linear layer.

    Raises:
        ConfigError: something else, or nothing is.
    """
    check_weights(
        network,
        lambda layer: isinstance(layer, Quantised) or type(layer) in (nn.Conv2d, nn.Linear),
        "quantised",
    )


_SUMS = {operator.add, operator.iadd, torch.add, torch.cat, "add", "add_"}


def summed_up(network: Network) -> list[str]:
    """Paths of the layers whose output is summed up, or put beside something else.

    No other layer's rounding reaches it there, and kernels for integers need one. Blocks that
    torch.fx cannot trace have none.
    """
    found = []
    for name, block in network.blocks.items():
        try:
            graph = fx.symbolic_trace(block).graph
        except Exception:  # whatever it is that tracing cannot follow
            continue
        for node in graph.nodes:
            layer = node.op == "call_module" and block.get_submodule(node.target)
            if isinstance(layer, nn.Conv2d | nn.Linear) and any(
                user.target in _SUMS for user in node.users
            ):
                found.append(f"blocks.{name}.{node.target}")
    return found


def quantised_layers(network: nn.Module) -> list[tuple[str, Quantised]]:
    """All quantised layers with their paths."""
    return [(path, m) for path, m in network.named_modules() if isinstance(m, Quantised)]


@contextmanager
def as_floats(network: nn.Module) -> Iterator[None]:
    """For a while quantised layers compute as if they were not."""
    parts = [part for part in network.modules() if isinstance(part, Quantised | Rounding)]
    for part in parts:
        part.floating = True
    try:
        yield
    finally:
        for part in parts:
            part.floating = False


@contextmanager
def calibrating(network: nn.Module) -> Iterator[None]:
    """Have every rounding take the range of what passes there meanwhile.

    The network computes in float for as long.
    """
    places = [part for part in network.modules() if isinstance(part, Rounding)]
    seen = [observer(place.scale) for place in places]
    hooks = [
        place.register_forward_pre_hook(_told_to(one))
        for place, one in zip(places, seen, strict=True)
    ]
    try:
        with as_floats(network):
            yield
    finally:
        for hook in hooks:
            hook.remove()
    for place, one in zip(places, seen, strict=True):
        place.take(*one.calculate_qparams())


Some = TypeVar("Some", bound=nn.Module)


def sealed(network: Some, as_operators: bool = False) -> Some:
    """A network whose quantised layers can be exported, see :meth:`Quantised.seal`; the network
    itself where it has none."""
    if not quantised_layers(network):
        return network
    if as_operators:
        operators_of_integers()  # exporters look them up before they run the network
    network = copy.deepcopy(network)
    for _, layer in quantised_layers(network):
        layer.seal(as_operators)
    return network


def stored(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors as they are kept: of quantised layers integers, two to a byte where
    4 bits or fewer hold one. ``load_state_dict`` of a network with such layers takes them."""
    tensors = dict(network.state_dict())
    for path, layer in quantised_layers(network):
        whole = layer.integers().contiguous()
        tensors[f"{path}.weight"] = packed(whole) if layer.bits <= 4 else whole
    return tensors


def _told_to(seeing: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seeing(given[0].float())

    return hook


def _put(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
