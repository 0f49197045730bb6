"""Resizing layers of a network to the sizes that pruning leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse.spaces.config.problems import ConfigError, Problem

WeightShapes = Mapping[str, Sequence[int]]
"""Path of a layer -> the shape of its weight."""
WeightedLayer = nn.Conv1d | nn.Conv2d | nn.Linear
Layer = WeightedLayer | _BatchNorm


def check_weighted_layers(
    network: nn.Module, is_supported: Callable[[nn.Module], bool], action: str
) -> None:
    """Check that all weights, except those of batch norms, belong to supported layers.

    ``action`` is the word for messages, for example ``pruned``.

    Raises:
        ConfigError: another layer has weights, or no layer is supported.
    """
    any_supported = False
    for path, module in network.named_modules():
        has_weights = any(p.dim() > 1 for p in module.parameters(recurse=False))
        if is_supported(module):
            any_supported = True
        elif has_weights and not isinstance(module, _BatchNorm):
            subject = f"{path or 'the network'} is of kind {type(module).__name__}"
            message = f"{subject}, which cannot be {action}; start from another network"
            raise ConfigError([Problem("start", message)])
    if not any_supported:
        message = f"has neither a convolution nor a linear layer, so nothing can be {action}"
        raise ConfigError([Problem("start", message)])


def weight_shapes(network: nn.Module) -> dict[str, list[int]]:
    """The weight shapes of all convolutions, linear layers and batch norms."""
    return {path: list(layer.weight.shape) for path, layer in _resizable_layers(network)}


def resize_layers(network: nn.Module, shapes: WeightShapes) -> None:
    """Give layers zero weights of other shapes, in place; the values are loaded later.

    A depthwise convolution stays depthwise: its groups are its channels.
    """
    for path, layer in _resizable_layers(network):
        shape = shapes.get(path)
        if shape is not None and list(layer.weight.shape) != list(shape):
            _resize_layer(layer, tuple(shape))


def _resize_layer(layer: Layer, shape: tuple[int, ...]) -> None:
    weight = layer.weight
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        layer.groups = shape[0] if depthwise else layer.groups
        layer.out_channels, layer.in_channels = shape[0], shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, _BatchNorm):
        layer.num_features = shape[0]
        layer.running_mean, layer.running_var = weight.new_zeros(shape), weight.new_ones(shape)
    layer.weight = nn.Parameter(weight.new_zeros(shape))
    if layer.bias is not None:
        layer.bias = nn.Parameter(weight.new_zeros(shape[:1]))


def _resizable_layers(network: nn.Module) -> Iterator[tuple[str, Layer]]:
    for path, module in network.named_modules():
        if isinstance(module, Layer) and module.weight is not None:
            yield path, module


def freeze_zero_weights(network: nn.Module) -> None:
    """Keep zero weights at 0 in training: their gradient is set to 0, and weight decay keeps 0."""
    for _, layer in _resizable_layers(network):
        if not isinstance(layer, _BatchNorm):
            layer.weight.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient, w=layer.weight: gradient * (w != 0)
            )
