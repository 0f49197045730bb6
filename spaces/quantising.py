"""Quantising: convolutions and linear layers that compute with few bits.

Weights are symmetric, with a scale for each output channel; what enters a layer is affine, with
one scale and zero point, 8 bits (Jacob et al. 2018, section 2.1; Krishnamoorthi 2018, section 2).
Training goes on in float behind rounding, whose gradient is taken as 1 within the range and 0
outside (Bengio et al. 2013; Jacob et al. 2018, section 3.2). Scales come from torchao.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from spaces.problem import ConfigError, Problem

LOW, HIGH = -128, 127
"""What enters a layer lies between them as an integer."""


class Quantised(nn.Module):
    """What both kinds of layer have: ``scale`` [channels] of the weight, and scale and zero point
    of what enters. ``weight`` stays float, for training to go on; :meth:`integers` is what counts.

    In training mode the scale follows the weight, in evaluation mode it stays as it was last.
    """

    weight: Tensor
    scale: Tensor
    input_scale: Tensor
    input_zero: Tensor
    bits: int
    floating: bool
    """Whether it computes as if it were not quantised."""
    sealed: bool
    """Whether ``weight`` is int8, which nothing trains any more, and graphs can hold."""
    as_operators: bool

    def _set_up(self, layer: nn.Conv2d | nn.Linear, bits: int) -> None:
        """Take over the weight and the mode of a layer."""
        self.weight, self.training = layer.weight, layer.training
        self.bits, self.floating, self.sealed, self.as_operators = bits, False, False, False
        self.register_buffer("scale", self.weight.new_ones(len(self.weight)))
        self.register_buffer("input_scale", self.weight.new_ones(()))
        zero = torch.zeros((), dtype=torch.int32, device=self.weight.device)
        self.register_buffer("input_zero", zero)
        self._entering_range = (1.0, 0, LOW, HIGH)

    def forward(self, x: Tensor) -> Tensor:
        if self.floating:
            return self.computed(x, self.weight)
        # Products of integers are exact in float32, and not in what autocast may choose.
        with torch.autocast(x.device.type, enabled=False):
            return self.computed(self._entering(x.float()), self.rounded())

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's own function, of a weight in float."""
        raise NotImplementedError

    def rounded(self) -> Tensor:
        """The weight that the layer computes with: integers times ``scale``."""
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

    def enter_between(self, scale: Tensor, zero: Tensor) -> None:
        """What enters is rounded by this scale and zero point, one value each."""
        self.input_scale.copy_(scale.squeeze())
        self.input_zero.copy_(zero.squeeze())
        # As plain numbers graphs can hold them, and no step waits for the device to tell them.
        self._entering_range = (self.input_scale.item(), int(self.input_zero), LOW, HIGH)

    def seal(self, as_operators: bool) -> None:
        """Keep the weight as integers alone: it can be exported, and not be trained.

        ``as_operators`` leaves quantising and dequantising as operators in the graph, for those
        who know them and have kernels for integers; else they are written out in plain ones.
        """
        self.as_operators = as_operators
        if not self.sealed:
            weight = self.integers()
            del self.weight
            self.register_buffer("weight", weight)
            self.sealed = True

    def _entering(self, x: Tensor) -> Tensor:
        """What enters, rounded."""
        if not self.sealed:
            return torch.fake_quantize_per_tensor_affine(x, *self._entering_range)
        ops, told = _operations(self.as_operators), (*self._entering_range, torch.int8)
        floats: Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *told), *told)
        return floats

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Integers, as :func:`stored` leaves them, become the weight that they stand for."""
        name = f"{prefix}weight"
        told = state_dict.get(name)
        if told is not None and not self.sealed and not told.is_floating_point():
            whole = _unpacked(told, self.weight.shape) if told.dtype == torch.uint8 else told
            scale = _spread(state_dict[f"{prefix}scale"], self.weight)
            state_dict = {**state_dict, name: whole.float() * scale}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.enter_between(self.input_scale, self.input_zero)


class QuantisedConv(Quantised, nn.Conv2d):
    """A convolution of images."""

    def __init__(self, layer: nn.Conv2d, bits: int) -> None:
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
        self._set_up(layer, bits)

    def computed(self, x: Tensor, weight: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(x, weight, self.bias)
        return convolved


class QuantisedLinear(Quantised, nn.Linear):
    """A linear layer."""

    def __init__(self, layer: nn.Linear, bits: int) -> None:
        nn.Linear.__init__(
            self, layer.in_features, layer.out_features, layer.bias is not None, device="meta"
        )
        self.bias = layer.bias
        self._set_up(layer, bits)

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


def quantise(network: nn.Module, bits: int) -> None:
    """Quantise all convolutions and linear layers, in place.

    What enters them is to be calibrated. Batch norm stays as it is: fold it first.

    Raises:
        ConfigError: the network has other layers with weights, or none at all.
    """
    check_quantisable(network)
    put_layers(network, bits)
    for _, layer in quantised_layers(network):
        layer.rescale()


def put_layers(network: nn.Module, bits: int) -> None:
    """Put quantised layers in place of convolutions and linear layers; ranges are to be loaded.

    Those that are quantised already get so many bits.
    """
    for path, layer in list(network.named_modules()):
        if isinstance(layer, Quantised):
            layer.bits = bits
        elif type(layer) is nn.Conv2d:
            _put(network, path, QuantisedConv(layer, bits))
        elif type(layer) is nn.Linear:
            _put(network, path, QuantisedLinear(layer, bits))


def check_quantisable(network: nn.Module) -> None:
    """Whether all that has weights is a convolution of images or a linear layer.

    Raises:
        ConfigError: something else, or nothing is.
    """
    found = False
    for path, module in network.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.dim() > 1]
        if isinstance(module, Quantised) or type(module) in (nn.Conv2d, nn.Linear):
            found = True
        elif own and not isinstance(module, _BatchNorm):
            message = (
                f"{path or 'the network'} is of kind {type(module).__name__}, which cannot be "
                "quantised: needs a network of 2-D convolutions and linear layers"
            )
            raise ConfigError([Problem("start", message)])
    if not found:
        message = "has neither a convolution nor a linear layer, so there is nothing to quantise"
        raise ConfigError([Problem("start", message)])


def quantised_layers(network: nn.Module) -> list[tuple[str, Quantised]]:
    """All quantised layers with their paths."""
    return [(path, m) for path, m in network.named_modules() if isinstance(m, Quantised)]


@contextmanager
def as_floats(network: nn.Module) -> Iterator[None]:
    """For a while quantised layers compute as if they were not."""
    layers = [layer for _, layer in quantised_layers(network)]
    for layer in layers:
        layer.floating = True
    try:
        yield
    finally:
        for layer in layers:
            layer.floating = False


@contextmanager
def calibrating(network: nn.Module) -> Iterator[None]:
    """Have every quantised layer take the range of what enters it from all that passes meanwhile.

    It is the smallest and largest value, with 0 between them, spread over 256 integers; the
    network computes in float for as long.
    """
    with _quiet():
        from torchao.quantization.pt2e.observer import MinMaxObserver

    layers = [layer for _, layer in quantised_layers(network)]
    observers = [
        MinMaxObserver(dtype=torch.int8, quant_min=LOW, quant_max=HIGH).to(layer.weight.device)
        for layer in layers
    ]
    hooks = [
        layer.register_forward_pre_hook(_told_to(observer))
        for layer, observer in zip(layers, observers, strict=True)
    ]
    try:
        with as_floats(network):
            yield
    finally:
        for hook in hooks:
            hook.remove()
    for layer, observer in zip(layers, observers, strict=True):
        layer.enter_between(*observer.calculate_qparams())


Some = TypeVar("Some", bound=nn.Module)


def sealed(network: Some, as_operators: bool = False) -> Some:
    """A network whose quantised layers can be exported, see :meth:`Quantised.seal`; the network
    itself where it has none."""
    if not quantised_layers(network):
        return network
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
        tensors[f"{path}.weight"] = _packed(whole) if layer.bits <= 4 else whole
    return tensors


def _told_to(observer: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        observer(given[0].float())

    return hook


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


def _put(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def _spread(scale: Tensor, like: Tensor) -> Tensor:
    """[channels, 1, ...], to be multiplied with a weight."""
    return scale.float().view(-1, *[1] * (like.dim() - 1))


def _operations(as_operators: bool) -> Any:
    """``quantize_per_tensor`` and its like: torch's operators, or what they are made of."""
    from torch.ao.quantization.fx import _decomposed

    return torch.ops.quantized_decomposed if as_operators else _decomposed


def _packed(integers: Tensor) -> Tensor:
    """int8 of -8..7 as uint8 [half as many, rounded up], two in each."""
    flat = F.pad(integers.flatten(), (0, integers.numel() % 2)).view(-1, 2) + 8
    return (flat[:, 0] + 16 * flat[:, 1].to(torch.uint8)).to(torch.uint8)


def _unpacked(packed: Tensor, shape: torch.Size) -> Tensor:
    """What :func:`_packed` was given, of a shape."""
    pairs = torch.stack([packed % 16, packed // 16], dim=1).to(torch.int8) - 8
    return pairs.flatten()[: shape.numel()].view(shape)
