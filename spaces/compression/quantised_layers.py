"""Quantised layers: convolutions and linear layers that compute with integers of few bits.

Weights are symmetric, with a scale for each output channel. Activations are affine with 8 bits, one
scale and one zero point (Jacob et al. 2018, section 2.1; Krishnamoorthi 2018, section 2). Training
continues in float with fake quantisation, whose gradient is 1 inside the range and 0 outside
(Bengio et al. 2013; Jacob et al. 2018, section 3.2). Scales come from torchao.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INT8_MIN, INT8_MAX = -128, 127
"""The range of quantised activations."""


class FakeQuantize(nn.Module):
    """Rounds activations to multiples of ``scale`` with zero point ``zero``; they stay float.

    The range is fixed after calibration. Values outside are clamped and have no gradient.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", reference.new_ones((), dtype=torch.float32))
        self.register_buffer("zero", reference.new_zeros((), dtype=torch.int32))
        self.bypassed, self.is_exportable, self.emit_operators = False, False, False
        self._range = (1.0, 0, INT8_MIN, INT8_MAX)

    def forward(self, x: Tensor) -> Tensor:
        if self.bypassed:
            return x
        if not self.is_exportable:
            return torch.fake_quantize_per_tensor_affine(x, *self._range)
        ops, qparams = _quantized_functions(self.emit_operators), (*self._range, torch.int8)
        floats: Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *qparams), *qparams)
        return floats

    def set_range(self, scale: Tensor, zero: Tensor) -> None:
        """Use this scale and zero point, one value each."""
        self.scale.copy_(scale.squeeze())
        self.zero.copy_(zero.squeeze())
        # Plain numbers: graphs can hold them, and no step waits for the device.
        self._range = (self.scale.item(), int(self.zero), INT8_MIN, INT8_MAX)

    def make_exportable(self, emit_operators: bool) -> None:
        """See :meth:`QuantisedLayer.make_exportable`."""
        self.is_exportable, self.emit_operators = True, emit_operators

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.set_range(self.scale, self.zero)


class QuantisedLayer(nn.Module):
    """Base of both kinds of layers.

    ``scale`` [channels] belongs to the weight. ``enters`` quantises the input; ``leaves`` quantises
    the output if it is an operand of a sum. ``weight`` stays float for training, but the layer
    computes with :meth:`integer_weight`. The scale follows the weight in training mode only.
    """

    weight: Tensor
    scale: Tensor
    enters: FakeQuantize
    leaves: FakeQuantize | None
    bits: int
    bypassed: bool
    """Whether the layer computes in float."""
    is_exportable: bool
    """Whether ``weight`` is int8, which can be exported but not trained."""
    emit_operators: bool

    def _adopt(self, layer: nn.Conv2d | nn.Linear, bits: int, quantise_output: bool) -> None:
        """Share the weight of ``layer`` and take its mode."""
        self.weight, self.training = layer.weight, layer.training
        self.bits, self.bypassed, self.is_exportable, self.emit_operators = (
            bits,
            False,
            False,
            False,
        )
        self.register_buffer("scale", self.weight.new_ones(len(self.weight)))
        self.enters = FakeQuantize(self.weight)
        self.leaves = FakeQuantize(self.weight) if quantise_output else None

    def forward(self, x: Tensor) -> Tensor:
        # Products of integers are exact in float32, and not in what autocast may choose.
        precision_context = (
            nullcontext() if self.bypassed else torch.autocast(x.device.type, enabled=False)
        )
        with precision_context:
            inputs = self.enters(x if self.bypassed else x.float())
            y = self.compute(inputs, self.dequantised_weight())
            return y if self.leaves is None else self.leaves(y)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's function with a float weight."""
        raise NotImplementedError

    def dequantised_weight(self) -> Tensor:
        """The weight that the layer computes with: integers times ``scale``."""
        if self.bypassed:
            return self.weight
        if self.is_exportable:
            qparams = (self._zeros(torch.int64), 0, -self.max_integer, self.max_integer, torch.int8)
            ops = _quantized_functions(self.emit_operators)
            floats: Tensor = ops.dequantize_per_channel(self.weight, self.scale, *qparams)
            return floats
        weight = self.weight.float()
        if self.training:
            self.scale.copy_(channel_scale(weight, self.bits))
        return self._fake_quantised(weight)

    def _fake_quantised(self, weight: Tensor) -> Tensor:
        qparams = (self._zeros(torch.int32), 0, -self.max_integer, self.max_integer)
        return torch.fake_quantize_per_channel_affine(weight, self.scale.float(), *qparams)

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros_like(self.scale, dtype=dtype)

    @property
    def max_integer(self) -> int:
        """The largest integer of a weight; its negative is the smallest."""
        return int(2 ** (self.bits - 1)) - 1

    def integer_weight(self) -> Tensor:
        """The weight as int8, in its own shape."""
        if self.is_exportable:
            return self.weight
        with torch.no_grad():
            dequantised = self._fake_quantised(self.weight.float())
            return (dequantised / _broadcast_scale(self.scale, dequantised)).round().to(torch.int8)

    def update_scale(self) -> None:
        """Recompute the scale after a change of the weight or its shape."""
        self.scale = channel_scale(self.weight, self.bits)

    def make_exportable(self, emit_operators: bool) -> None:
        """Keep only the integer weight: the layer can be exported, but not trained.

        ``emit_operators`` keeps quantise and dequantise as single operators in the graph, for
        runtimes with integer kernels. Otherwise they are expanded into plain operators.
        """
        self.emit_operators = emit_operators
        for quantizer in filter(None, (self.enters, self.leaves)):
            quantizer.make_exportable(emit_operators)
        if not self.is_exportable:
            weight = self.integer_weight()
            del self.weight
            self.register_buffer("weight", weight)
            self.is_exportable = True

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Also loads integers of :meth:`integer_weight`, as the float weight they represent."""
        name = f"{prefix}weight"
        stored_weight = state_dict.get(name)
        if (
            stored_weight is not None
            and not self.is_exportable
            and not stored_weight.is_floating_point()
        ):
            integers = (
                _unpack_int4(stored_weight, self.weight.shape)
                if stored_weight.dtype == torch.uint8
                else stored_weight
            )
            scale = _broadcast_scale(state_dict[f"{prefix}scale"], self.weight)
            state_dict = {**state_dict, name: integers.float() * scale}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class QuantisedConv(QuantisedLayer, nn.Conv2d):
    """A quantised 2D convolution."""

    def __init__(self, layer: nn.Conv2d, bits: int, quantise_output: bool) -> None:
        nn.Conv2d.__init__(
            self,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",
        )
        self.bias = layer.bias
        self._adopt(layer, bits, quantise_output)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(x, weight, self.bias)
        return convolved


class QuantisedLinear(QuantisedLayer, nn.Linear):
    """A quantised linear layer."""

    def __init__(self, layer: nn.Linear, bits: int, quantise_output: bool) -> None:
        nn.Linear.__init__(
            self, layer.in_features, layer.out_features, layer.bias is not None, device="meta"
        )
        self.bias = layer.bias
        self._adopt(layer, bits, quantise_output)

    def compute(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)


def channel_scale(weight: Tensor, bits: int) -> Tensor:
    """For each output channel, the largest absolute weight over the largest integer of ``bits``."""
    with _silence_pytree_log():
        from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine

    highest = 2 ** (bits - 1) - 1
    scale: Tensor = choose_qparams_affine(
        weight.detach().contiguous(),
        MappingType.SYMMETRIC,
        (1, *weight.shape[1:]),
        torch.int8,
        -highest,
        highest,
        eps=torch.finfo(torch.float32).eps,
    )[0]
    return scale.reshape(len(weight))  # torchao keeps dimensions of length 1


def minmax_observer(reference: Tensor) -> Any:
    """An observer of tensors; its ``calculate_qparams`` returns scale and zero point.

    They map the range of all observed values, extended to contain 0, to 256 integers.
    """
    with _silence_pytree_log():
        from torchao.quantization.pt2e.observer import MinMaxObserver

    return MinMaxObserver(dtype=torch.int8, quant_min=INT8_MIN, quant_max=INT8_MAX).to(
        reference.device
    )


@contextmanager
def _silence_pytree_log() -> Iterator[None]:
    """Hide the deprecation messages in torch's log during the import of torchao."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _broadcast_scale(scale: Tensor, reference: Tensor) -> Tensor:
    """``scale`` as [channels, 1, ...], for a product with a weight."""
    return scale.float().view(-1, *[1] * (reference.dim() - 1))


def quantized_ops() -> Any:
    """``torch.ops.quantized_decomposed``, the operators of integers in exported graphs."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def _quantized_functions(emit_operators: bool) -> Any:
    """``quantize_per_tensor`` and so on: torch's operators, or functions of plain operators."""
    from torch.ao.quantization.fx import _decomposed

    return quantized_ops() if emit_operators else _decomposed


def pack_int4(integers: Tensor) -> Tensor:
    """int8 values of -8..7 as uint8 [half as many, rounded up], two in each byte."""
    flat = F.pad(integers.flatten(), (0, integers.numel() % 2)).view(-1, 2) + 8
    return (flat[:, 0] + 16 * flat[:, 1].to(torch.uint8)).to(torch.uint8)


def _unpack_int4(packed: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`pack_int4` for a weight of this shape."""
    nibbles = torch.stack([packed % 16, packed // 16], dim=1).to(torch.int8) - 8
    return nibbles.flatten()[: shape.numel()].view(shape)
