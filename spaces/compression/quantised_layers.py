"""Quantised layers: convolutions and linear layers that compute with integers of few bits.

Weights are symmetric, with a scale for each output channel; what passes between layers is affine,
with one scale and zero point, 8 bits (Jacob et al. 2018, section 2.1; Krishnamoorthi 2018, section
2). Training goes on in float behind rounding, whose gradient is taken as 1 within the range and 0
outside (Bengio et al. 2013; Jacob et al. 2018, section 3.2). Scales come from torchao.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOW, HIGH = -128, 127
"""What passes between layers lies between them as an integer."""


class Rounding(nn.Module):
    """What passes becomes integers times ``scale``, ``zero`` standing for 0; it stays float.

    The range is fixed once it is taken: what lies outside is cut off, and teaches nothing.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", like.new_ones((), dtype=torch.float32))
        self.register_buffer("zero", like.new_zeros((), dtype=torch.int32))
        self.floating, self.sealed, self.as_operators = False, False, False
        self._range = (1.0, 0, LOW, HIGH)

    def forward(self, x: Tensor) -> Tensor:
        if self.floating:
            return x
        if not self.sealed:
            return torch.fake_quantize_per_tensor_affine(x, *self._range)
        ops, told = _operations(self.as_operators), (*self._range, torch.int8)
        floats: Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *told), *told)
        return floats

    def take(self, scale: Tensor, zero: Tensor) -> None:
        """Round by these from now on, one value each."""
        self.scale.copy_(scale.squeeze())
        self.zero.copy_(zero.squeeze())
        # As plain numbers graphs can hold them, and no step waits for the device to tell them.
        self._range = (self.scale.item(), int(self.zero), LOW, HIGH)

    def seal(self, as_operators: bool) -> None:
        """See :meth:`Quantised.seal`."""
        self.sealed, self.as_operators = True, as_operators

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.take(self.scale, self.zero)


class Quantised(nn.Module):
    """What both kinds of layer have: ``scale`` [channels] of the weight, the rounding of what
    ``enters``, and of what ``leaves`` where that is summed up with something else.

    ``weight`` stays float, for training to go on; :meth:`integers` is what counts. In training
    mode the scale follows the weight, in evaluation mode it stays as it was last.
    """

    weight: Tensor
    scale: Tensor
    enters: Rounding
    leaves: Rounding | None
    bits: int
    floating: bool
    """Whether it computes as if it were not quantised."""
    sealed: bool
    """Whether ``weight`` is int8, which nothing trains any more, and graphs can hold."""
    as_operators: bool

    def _set_up(self, layer: nn.Conv2d | nn.Linear, bits: int, leaves: bool) -> None:
        """Take over the weight and the mode of a layer."""
        self.weight, self.training = layer.weight, layer.training
        self.bits, self.floating, self.sealed, self.as_operators = bits, False, False, False
        self.register_buffer("scale", self.weight.new_ones(len(self.weight)))
        self.enters = Rounding(self.weight)
        self.leaves = Rounding(self.weight) if leaves else None

    def forward(self, x: Tensor) -> Tensor:
        # Products of integers are exact in float32, and not in what autocast may choose.
        exact = nullcontext() if self.floating else torch.autocast(x.device.type, enabled=False)
        with exact:
            entering = self.enters(x if self.floating else x.float())
            y = self.computed(entering, self.rounded())
            return y if self.leaves is None else self.leaves(y)

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's own function, of a weight in float."""
        raise NotImplementedError

    def rounded(self) -> Tensor:
        """The weight that the layer computes with: integers times ``scale``."""
        if self.floating:
            return self.weight
        if self.sealed:
            told = (self._zeros(torch.int64), 0, -self.highest, self.highest, torch.int8)
            ops = _operations(self.as_operators)
            floats: Tensor = ops.dequantize_per_channel(self.weight, self.scale, *told)
            return floats
        weight = self.weight.float()
        if self.training:
            self.scale.copy_(channel_scale(weight, self.bits))
        return self._faked(weight)

    def _faked(self, weight: Tensor) -> Tensor:
        told = (self._zeros(torch.int32), 0, -self.highest, self.highest)
        return torch.fake_quantize_per_channel_affine(weight, self.scale.float(), *told)

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros_like(self.scale, dtype=dtype)

    @property
    def highest(self) -> int:
        """The largest integer of a weight; its negative is the smallest."""
        return int(2 ** (self.bits - 1)) - 1

    def integers(self) -> Tensor:
        """The weight as int8, of its own shape."""
        if self.sealed:
            return self.weight
        with torch.no_grad():
            rounded = self._faked(self.weight.float())
            return (rounded / _spread(self.scale, rounded)).round().to(torch.int8)

    def rescale(self) -> None:
        """Take the scale anew from a weight that has changed, in shape as well."""
        self.scale = channel_scale(self.weight, self.bits)

    def seal(self, as_operators: bool) -> None:
        """Keep the weight as integers alone: it can be exported, and not be trained.

        ``as_operators`` leaves quantising and dequantising as operators in the graph, for those
        who know them and have kernels for integers; else they are written out in plain ones.
        """
        self.as_operators = as_operators
        for rounding in filter(None, (self.enters, self.leaves)):
            rounding.seal(as_operators)
        if not self.sealed:
            weight = self.integers()
            del self.weight
            self.register_buffer("weight", weight)
            self.sealed = True

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Integers, as :meth:`integers` tells them, become the weight that they stand for."""
        name = f"{prefix}weight"
        told = state_dict.get(name)
        if told is not None and not self.sealed and not told.is_floating_point():
            whole = _unpacked(told, self.weight.shape) if told.dtype == torch.uint8 else told
            scale = _spread(state_dict[f"{prefix}scale"], self.weight)
            state_dict = {**state_dict, name: whole.float() * scale}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class QuantisedConv(Quantised, nn.Conv2d):
    """A convolution of images."""

    def __init__(self, layer: nn.Conv2d, bits: int, leaves: bool) -> None:
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
        self._set_up(layer, bits, leaves)

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(x, weight, self.bias)
        return convolved


class QuantisedLinear(Quantised, nn.Linear):
    """A linear layer."""

    def __init__(self, layer: nn.Linear, bits: int, leaves: bool) -> None:
        nn.Linear.__init__(
            self, layer.in_features, layer.out_features, layer.bias is not None, device="meta"
        )
        self.bias = layer.bias
        self._set_up(layer, bits, leaves)

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)


def channel_scale(weight: Tensor, bits: int) -> Tensor:
    """[channels]: the largest size of a weight in each, over the largest integer of ``bits``."""
    with _quiet():
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
    return scale.reshape(len(weight))  # sides of length 1 were kept


def observer(like: Tensor) -> Any:
    """What sees tensors and then tells, by ``calculate_qparams``, scale and zero point of what was
    between the smallest and the largest value, with 0 among them, spread over 256 integers."""
    with _quiet():
        from torchao.quantization.pt2e.observer import MinMaxObserver

    return MinMaxObserver(dtype=torch.int8, quant_min=LOW, quant_max=HIGH).to(like.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """While torchao is imported, torch's log tells what torchao's authors should change."""
    logger = logging.getLogger("torch.utils._pytree")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _spread(scale: Tensor, like: Tensor) -> Tensor:
    """[channels, 1, ...], to be multiplied with a weight."""
    return scale.float().view(-1, *[1] * (like.dim() - 1))


def operators_of_integers() -> Any:
    """``torch.ops.quantized_decomposed``, by which exported graphs tell of integers."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def _operations(as_operators: bool) -> Any:
    """``quantize_per_tensor`` and its like: torch's operators, or what they are made of."""
    from torch.ao.quantization.fx import _decomposed

    return operators_of_integers() if as_operators else _decomposed


def packed(integers: Tensor) -> Tensor:
    """int8 of -8..7 as uint8 [half as many, rounded up], two in each."""
    flat = F.pad(integers.flatten(), (0, integers.numel() % 2)).view(-1, 2) + 8
    return (flat[:, 0] + 16 * flat[:, 1].to(torch.uint8)).to(torch.uint8)


def _unpacked(pairs: Tensor, shape: torch.Size) -> Tensor:
    """What :func:`packed` was given, of a shape."""
    apart = torch.stack([pairs % 16, pairs // 16], dim=1).to(torch.int8) - 8
    return apart.flatten()[: shape.numel()].view(shape)
