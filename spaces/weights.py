"""Weights that others published: renamed, checked, and loaded whole or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from stillhouse.spaces.config.normalisation import normalisation_fault
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Family, Network
from stillhouse.spaces.modules.state_dict import State, read_state, renamed, shorter

__all__ = ["State", "fit", "load_published", "read_state", "renamed"]

_NORMALISATION = ("mean", "std")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Fitted(NamedTuple):
    """Tensors under the network's names, and the normalisation they were trained with, if known."""

    state: State
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def load_published(
    network: Network, family: Family, state: Mapping[str, Tensor], path: str = ""
) -> Network:
    """Put ``state`` into ``network``, and the normalisation it was trained with before it.

    That normalisation is the state's own if it has one, else the family's published one, else
    the network's as it is.

    Args:
        path: the file, or the experiment's field, for messages.

    Returns:
        A network that shares its blocks with ``network``.

    Raises:
        ConfigError: as :func:`fit`; nothing was loaded then.
    """
    fitted = fit(network, family, state, path)
    kept = {name: getattr(network, name) for name in _NORMALISATION}
    network.load_state_dict({**fitted.state, **kept})
    if fitted.mean is None or fitted.std is None:
        return network
    return network.normalised_with(fitted.mean, fitted.std)


def fit(network: Network, family: Family, state: Mapping[str, Tensor], path: str = "") -> Fitted:
    """``state`` as ``network`` can load it; of ``network`` only names and shapes are read.

    A prefix that all names share, such as ``model.``, is taken off where that makes them fit.

    Raises:
        ConfigError: a tensor is missing, left over, of another shape, or holds no weights:
            integers, complex numbers, NaN; a normalisation of other channels, or by 0.
    """
    own = {k: t for k, t in network.state_dict().items() if k not in _NORMALISATION}
    messages = []
    for candidate in _without_common_steps(state):
        given = family.from_published(candidate)
        mean = std = None
        if given.keys() >= set(_NORMALISATION):
            mean, std = (given.pop(name) for name in _NORMALISATION)
        given = _counters(own) | given
        messages.append(_mismatch(own, given))
        if messages[-1]:
            continue
        if wrong := _no_weights(own, given):
            raise ConfigError([Problem(path, wrong)])
        moments = _moments(mean, std, own, path)
        return Fitted(given, *(moments or (family.published_mean, family.published_std)))
    raise ConfigError([Problem(path, f"does not fit this network: {messages[0]}")])


def _counters(own: Mapping[str, Tensor]) -> State:
    """Counters of batches seen; files from before torch 0.4 lack them, and nothing reads them."""
    names = [name for name in own if name.endswith(".num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.long) for name in names}


def _without_common_steps(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """``state`` as it is, and then without one more step that all its names share."""
    left: Mapping[str, Tensor] | None = state
    while left:
        yield left
        left = shorter(left)


def _no_weights(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What is no weight among tensors of the right names and shapes, or nothing."""
    for name, tensor in given.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            return f"{name} is sparse or quantised; needs plain tensors"
        if not own[name].is_floating_point():
            continue
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in _FLOATS)
            return f"{name} holds {kind}; needs floating-point weights ({allowed})"
        if not tensor.isfinite().all():
            return f"{name} holds numbers that are not finite; its training diverged"
        if name.endswith("running_var") and bool((tensor < 0).any()):
            return f"{name} holds a negative variance, which no batch norm has"
    return ""


def _moments(
    mean: Tensor | None, std: Tensor | None, own: Mapping[str, Tensor], path: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The normalisation that a state holds; none where it holds none.

    Raises:
        ConfigError: it is of another number of channels, not finite, or divides by 0.
    """
    if mean is None or std is None:
        return None
    # The first weights of a network for images are [out, channels, height, width].
    first = next((tensor for tensor in own.values() if tensor.dim() == 4), None)
    channels = None if first is None else first.shape[1]
    means, deviations = (tuple(tensor.flatten().tolist()) for tensor in (mean, std))
    if wrong := normalisation_fault(means, deviations, channels):
        raise ConfigError([Problem(path, wrong)])
    return means, deviations


def _mismatch(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What is missing, left over and mis-shaped, with an example of either's names; or nothing."""
    shapes = [
        f"{name} is {_dimensions(given[name])} and should be {_dimensions(own[name])}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    found = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": shapes,
    }
    told = [f"{what}: {_some(names)}" for what, names in found.items() if names]
    if found["missing"] and found["unexpected"]:
        told.append("is the file of another network? If not, rename its tensors so")
    return "; ".join(told)


def _dimensions(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
