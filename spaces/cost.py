"""The static costs of a network: parameters, FLOPs and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stillhouse.spaces.compression.quantisation import packed_state_dict, quantised_layers
from stillhouse.spaces.modules.cuts import blank_input
from stillhouse.spaces.modules.network import Network, Shape, eval_mode
from stillhouse.spaces.network_spec import NetworkSpec


@dataclass(frozen=True)
class Costs:
    """Parameters, FLOPs of one image's forward pass, and bytes of all stored tensors.

    Quantised weights are stored as integers. FLOPs are counted as in torch: a multiplication and
    its addition count as two, and only convolutions and matrix products count. FLOPs or MAdds of
    papers are often half of it.
    """

    parameters: int
    flops: int
    bytes: int

    def plain(self) -> dict[str, float]:
        """The metrics of a record."""
        return {name: float(value) for name, value in asdict(self).items()}


def compute_costs(network: nn.Module, shape: Shape) -> Costs:
    """The costs of a network for images of ``shape``, or of some of its blocks for a feature.

    One blank image passes through; on the meta device only its shape does. Heads of a network are
    not counted, because only training uses them.
    """
    if isinstance(network, Network) and network.heads:
        network = network.with_heads({})
    with eval_mode(network), torch.no_grad(), _FlopCounter() as counter:
        network(blank_input(shape, [network]))
    stored_tensors = chain(network.parameters(), network.buffers())
    if quantised_layers(network):
        stored_tensors = chain(packed_state_dict(network).values())
    return Costs(
        parameters=sum(p.numel() for p in network.parameters()),
        flops=counter.flops,
        bytes=sum(t.numel() * t.element_size() for t in stored_tensors),
    )


class _FlopCounter(TorchDispatchMode):
    """Sums torch's FLOP formulas over all operators that run inside the context.

    ``torch.utils.flop_counter.FlopCounterMode`` gives the same sums, but loads torch's compiler,
    which takes a second or more in every process.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without this, torch loads its compiler in order to bypass it."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        elif func.overloadpacket.__name__ in _RECURRENT_KERNELS:
            self.flops += _recurrent_flops(args)
        return result


_RECURRENT_KERNELS = ("mkldnn_rnn_layer", "_cudnn_rnn")
"""Kernels of whole recurrent layers, for which torch has no formula."""


def _recurrent_flops(args: Any) -> int:
    """One product with each weight matrix in each step; the input is [steps, N, features]."""
    steps, batch, _ = args[0].shape
    # cuDNN takes one list of tensors, oneDNN the weights of inputs and states separately.
    tensors = args[1] if isinstance(args[1], list | tuple) else args[1:3]
    weights = sum(tensor.numel() for tensor in tensors if tensor.dim() == 2)
    return int(2 * steps * batch * weights)


def network_costs(spec: Any, shape: Shape, classes: int) -> Costs:
    """The costs of a network that an experiment names.

    Raises:
        ConfigError: no such network, or one that does not fit the shape.
    """
    parsed = NetworkSpec.parse(spec)
    return _spec_costs(replace(parsed, label=""), shape, classes)


@lru_cache(maxsize=4096)
def _spec_costs(spec: NetworkSpec, shape: Shape, classes: int) -> Costs:
    return compute_costs(spec.build_for_shapes(shape, classes), shape)
