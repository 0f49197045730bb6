"""Pruning: the least important channels or weights of a trained network are removed.

Channels are removed together with the weights that depend on them. torch-pruning follows the
dependencies (Fang et al. 2023, "DepGraph", section 3), and importance is the norm of a whole group
(section 3.3). Single weights are set to 0, the smallest first (Han et al. 2015, section 3).
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from stillhouse.spaces.compression.layer_sizes import WeightedLayer, check_weighted_layers
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line
from stillhouse.spaces.modules.cuts import blank_input
from stillhouse.spaces.modules.network import Network, Shape

Scope = Literal["layer", "network"]


def prune_channels(network: Network, shape: Shape, sparsity: float) -> None:
    """Remove the share ``sparsity`` of the channels of every layer, in place.

    Inputs and classes stay. The network must have no heads.

    Raises:
        ConfigError: no channel can be removed, or a layer would be empty.
    """
    import torch_pruning as tp

    shapes_before = {name: tuple(p.shape) for name, p in network.named_parameters()}
    classes = network(blank_input(shape, [network]), ()).logits.shape[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parameters that belong to no layer
            pruner = tp.pruner.BasePruner(
                network,
                blank_input(shape, [network]),
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=sparsity,
                ignored_layers=_output_layers(network),
                forward_fn=lambda model, images: model(images, ()).logits,
            )
            pruner.step()
        with torch.no_grad():
            classes_left = network(blank_input(shape, [network]), ()).logits.shape[1]
    except Exception as error:  # its tracing fails with any exception
        reason = first_line(error)
        message = f"the channels of this network cannot be pruned: {reason}; use how: weights"
        raise ConfigError([Problem("how", message)]) from None
    shapes_after = {name: tuple(p.shape) for name, p in network.named_parameters()}
    empty_layers = sorted(name for name, size in shapes_after.items() if 0 in size)
    if empty_layers or classes_left != classes:
        message = (
            f"{sparsity:g} would leave nothing of {(empty_layers or ['the classes'])[0]}; take less"
        )
        raise ConfigError([Problem("sparsity", message)])
    if shapes_before == shapes_after:
        message = (
            f"{sparsity:g} takes no channel out of this network, whose layers are narrow or bound "
            "to each other; take more, or use how: weights"
        )
        raise ConfigError([Problem("sparsity", message)])


def prune_weights(network: Network, sparsity: float, scope: Scope) -> None:
    """Set the share ``sparsity`` of the weights of convolutions and linear layers to 0, in place.

    ``scope``: the smallest weights of each layer, or of the whole network.

    Raises:
        ConfigError: a layer would have only zeros.
    """
    weights = {path: layer.weight for path, layer in _weighted_layers(network)}
    if scope == "network":
        magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
        threshold = _magnitude_threshold(magnitudes, sparsity)
        thresholds = dict.fromkeys(weights, threshold)
    else:
        thresholds = {
            p: _magnitude_threshold(w.detach().abs().flatten(), sparsity)
            for p, w in weights.items()
        }
    for path, weight in weights.items():
        mask = weight.detach().abs() > thresholds[path]
        if not mask.any():
            message = f"{sparsity:g} would leave nothing of {path}; take less, or use scope: layer"
            raise ConfigError([Problem("sparsity", message)])
        with torch.no_grad():
            weight.mul_(mask)


def check_prunable(network: nn.Module) -> None:
    """Check that only convolutions and linear layers have weights, except batch norms.

    Raises:
        ConfigError: another layer has weights, for example an LSTM, or no layer has.
    """
    check_weighted_layers(network, lambda layer: isinstance(layer, WeightedLayer), "pruned")


def narrowest_layer(network: nn.Module) -> tuple[str, int]:
    """The path of the layer with the fewest output channels or features, and their number.

    :func:`check_prunable` must accept the network.
    """
    widths = [(path, layer.weight.shape[0]) for path, layer in _weighted_layers(network)]
    return min(widths[:-1] or widths, key=lambda one: one[1])


def _magnitude_threshold(magnitudes: Tensor, sparsity: float) -> float:
    """The magnitude up to which weights are removed for this sparsity."""
    count = int(sparsity * magnitudes.numel())
    return float(magnitudes.kthvalue(count).values) if count else -1.0


def _weighted_layers(network: nn.Module) -> list[tuple[str, WeightedLayer]]:
    return [(path, m) for path, m in network.named_modules() if isinstance(m, WeightedLayer)]


def _output_layers(network: Network) -> list[nn.Module]:
    """The layer that returns the logits: the last with weights."""
    return [_weighted_layers(network)[-1][1]]
