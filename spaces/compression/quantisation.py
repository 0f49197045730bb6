"""Quantisation of whole networks: convolutions and linear layers compute with few bits."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, fx, nn

from stillhouse.spaces.compression.layer_sizes import check_weighted_layers
from stillhouse.spaces.compression.quantised_layers import (
    FakeQuantize,
    QuantisedConv,
    QuantisedLayer,
    QuantisedLinear,
    minmax_observer,
    pack_int4,
    quantized_ops,
)
from stillhouse.spaces.modules.network import Network


def quantise(network: nn.Module, bits: int, quantise_outputs_of: Collection[str] = ()) -> None:
    """Quantise all convolutions and linear layers, in place.

    Their inputs, and the outputs of the layers ``quantise_outputs_of`` (paths), are quantised too
    and must be calibrated. Batch norm is not quantised: fold it first.

    Raises:
        ConfigError: the network has other layers with weights, or none at all.
    """
    check_quantisable(network)
    insert_quantised_layers(network, bits, quantise_outputs_of)
    for _, layer in quantised_layers(network):
        layer.update_scale()


def insert_quantised_layers(
    network: nn.Module, bits: int, quantise_outputs_of: Collection[str] = ()
) -> None:
    """Replace convolutions and linear layers by quantised ones, whose ranges are loaded later.

    Layers that are already quantised get ``bits``.
    """
    for path, layer in list(network.named_modules()):
        if isinstance(layer, QuantisedLayer):
            layer.bits = bits
        elif type(layer) is nn.Conv2d:
            _replace_module(network, path, QuantisedConv(layer, bits, path in quantise_outputs_of))
        elif type(layer) is nn.Linear:
            _replace_module(
                network, path, QuantisedLinear(layer, bits, path in quantise_outputs_of)
            )


def check_quantisable(network: nn.Module) -> None:
    """Check that only 2D convolutions and linear layers have weights, except batch norms.

    Raises:
        ConfigError: another layer has weights, or no layer has.
    """
    check_weighted_layers(
        network,
        lambda layer: isinstance(layer, QuantisedLayer) or type(layer) in (nn.Conv2d, nn.Linear),
        "quantised",
    )


_SUM_FUNCTIONS = {operator.add, operator.iadd, torch.add, torch.cat, "add", "add_"}


def layers_feeding_sums(network: Network) -> list[str]:
    """Paths of the layers whose output is an operand of a sum or a concatenation.

    No following layer quantises this output, but integer kernels need quantised operands. Blocks
    that torch.fx cannot trace are skipped.
    """
    paths = []
    for name, block in network.blocks.items():
        try:
            graph = fx.symbolic_trace(block).graph
        except Exception:  # tracing fails with any exception
            continue
        for node in graph.nodes:
            layer = node.op == "call_module" and block.get_submodule(node.target)
            if isinstance(layer, nn.Conv2d | nn.Linear) and any(
                user.target in _SUM_FUNCTIONS for user in node.users
            ):
                paths.append(f"blocks.{name}.{node.target}")
    return paths


def quantised_layers(network: nn.Module) -> list[tuple[str, QuantisedLayer]]:
    """All quantised layers, each with its path."""
    return [(path, m) for path, m in network.named_modules() if isinstance(m, QuantisedLayer)]


@contextmanager
def bypass_quantisation(network: nn.Module) -> Iterator[None]:
    """Inside the context quantised layers compute in float."""
    parts = [part for part in network.modules() if isinstance(part, QuantisedLayer | FakeQuantize)]
    for part in parts:
        part.bypassed = True
    try:
        yield
    finally:
        for part in parts:
            part.bypassed = False


@contextmanager
def calibration(network: nn.Module) -> Iterator[None]:
    """On exit, every fake quantisation takes the range of the tensors that passed inside.

    The network computes in float inside the context.
    """
    quantizers = [part for part in network.modules() if isinstance(part, FakeQuantize)]
    observers = [minmax_observer(quantizer.scale) for quantizer in quantizers]
    hooks = [
        quantizer.register_forward_pre_hook(_observe_input(range_observer))
        for quantizer, range_observer in zip(quantizers, observers, strict=True)
    ]
    try:
        with bypass_quantisation(network):
            yield
    finally:
        for hook in hooks:
            hook.remove()
    for quantizer, range_observer in zip(quantizers, observers, strict=True):
        quantizer.set_range(*range_observer.calculate_qparams())


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def exportable(network: ModuleT, emit_operators: bool = False) -> ModuleT:
    """A copy whose quantised layers can be exported; ``network`` itself if it has none.

    See :meth:`QuantisedLayer.make_exportable`.
    """
    if not quantised_layers(network):
        return network
    if emit_operators:
        quantized_ops()  # exporters look them up before they run the network
    network = copy.deepcopy(network)
    for _, layer in quantised_layers(network):
        layer.make_exportable(emit_operators)
    return network


def packed_state_dict(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors in stored form, which ``load_state_dict`` reads.

    Weights of quantised layers are integers, two in each byte for 4 bits or fewer.
    """
    tensors = dict(network.state_dict())
    for path, layer in quantised_layers(network):
        integers = layer.integer_weight().contiguous()
        tensors[f"{path}.weight"] = pack_int4(integers) if layer.bits <= 4 else integers
    return tensors


def _observe_input(observer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        observer(inputs[0].float())

    return hook


def _replace_module(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
