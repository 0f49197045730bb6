"""Trimming: layers of a network made narrower, as pruning leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse.spaces.config.problems import ConfigError, Problem

Sizes = Mapping[str, Sequence[int]]
"""Path of a layer -> the shape of its weight."""
Weighty = nn.Conv1d | nn.Conv2d | nn.Linear
Layer = Weighty | _BatchNorm


def check_weights(network: nn.Module, fits: Callable[[nn.Module], bool], done: str) -> None:
    """Whether all weights, but those of batch norms, belong to layers that fit.

    ``done`` says for what: ``pruned``.

    Raises:
        ConfigError: others have some, or nothing has.
    """
    found = False
    for path, module in network.named_modules():
        own = any(p.dim() > 1 for p in module.parameters(recurse=False))
        if fits(module):
            found = True
        elif own and not isinstance(module, _BatchNorm):
            whose = f"{path or 'the network'} is of kind {type(module).__name__}"
            message = f"{whose}, which cannot be {done}; start from another network"
            raise ConfigError([Problem("start", message)])
    if not found:
        message = f"has neither a convolution nor a linear layer, so nothing can be {done}"
        raise ConfigError([Problem("start", message)])


def sizes(network: nn.Module) -> dict[str, list[int]]:
    """Of every convolution, linear layer and batch norm with weights."""
    return {path: list(layer.weight.shape) for path, layer in _layers(network)}


def trim(network: nn.Module, to: Sizes) -> None:
    """Give layers weights of other shapes, in place; what is in them is to be loaded.

    A depthwise convolution stays one: its groups are its channels.
    """
    for path, layer in _layers(network):
        shape = to.get(path)
        if shape is not None and list(layer.weight.shape) != list(shape):
            _resize(layer, tuple(shape))


def _resize(layer: Layer, shape: tuple[int, ...]) -> None:
    like = layer.weight
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        layer.groups = shape[0] if depthwise else layer.groups
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, _BatchNorm):
        layer.num_features = shape[0]
        layer.running_mean, layer.running_var = like.new_zeros(shape), like.new_ones(shape)
    layer.weight = nn.Parameter(like.new_zeros(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(like.new_zeros(shape[:1]))


def _layers(network: nn.Module) -> Iterator[tuple[str, Layer]]:
    for path, module in network.named_modules():
        if isinstance(module, Layer) and module.weight is not None:
            yield path, module


def keep_zeros(network: nn.Module) -> None:
    """Weights that are 0 stay 0 in training: no gradient reaches them, and 0 decays to 0."""
    for _, layer in _layers(network):
        if not isinstance(layer, _BatchNorm):
            layer.weight.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient, w=layer.weight: gradient * (w != 0)
            )
