"""Published weights: renamed, checked, and loaded completely or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from stillhouse.spaces.config.normalisation import normalisation_error
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.network import Family, Network
from stillhouse.spaces.modules.state_dict import (
    StateDict,
    read_state,
    rename_tensors,
    strip_common_prefix,
)

__all__ = ["StateDict", "load_published", "match_state", "read_state", "rename_tensors"]

_NORMALISATION = ("mean", "std")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class MatchedState(NamedTuple):
    """Tensors with the network's names, and the normalisation of their training, if known."""

    state: StateDict
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def load_published(
    network: Network, family: Family, state: Mapping[str, Tensor], path: str = ""
) -> Network:
    """Load ``state`` into ``network``, and set the normalisation of its training.

    This is the normalisation of the state if it has one, else the family's published one, else
    that of ``network``.

    Args:
        path: the file, or the experiment's field, for messages.

    Returns:
        A network that shares its blocks with ``network``.

    Raises:
        ConfigError: as :func:`match_state`; nothing is loaded then.
    """
    matched = match_state(network, family, state, path)
    own_normalisation = {name: getattr(network, name) for name in _NORMALISATION}
    network.load_state_dict({**matched.state, **own_normalisation})
    if matched.mean is None or matched.std is None:
        return network
    return network.with_normalisation(matched.mean, matched.std)


def match_state(
    network: Network, family: Family, state: Mapping[str, Tensor], path: str = ""
) -> MatchedState:
    """``state`` in the form that ``network`` loads; only names and shapes of ``network`` are read.

    A prefix that all names share, such as ``model.``, is removed if the names fit without it.

    Raises:
        ConfigError: a tensor is missing, unexpected, has another shape or is invalid (integers,
            complex numbers, NaN); or the normalisation has other channels or a std of 0.
    """
    expected = {k: t for k, t in network.state_dict().items() if k not in _NORMALISATION}
    messages = []
    for candidate in _prefix_variants(state):
        candidate_state = family.rename_published(candidate)
        mean = std = None
        if candidate_state.keys() >= set(_NORMALISATION):
            mean, std = (candidate_state.pop(name) for name in _NORMALISATION)
        candidate_state = _batch_counters(expected) | candidate_state
        messages.append(_mismatch_message(expected, candidate_state))
        if messages[-1]:
            continue
        if error := _invalid_tensor_message(expected, candidate_state):
            raise ConfigError([Problem(path, error)])
        normalisation = _read_normalisation(mean, std, expected, path)
        return MatchedState(
            candidate_state, *(normalisation or (family.published_mean, family.published_std))
        )
    raise ConfigError([Problem(path, f"does not fit this network: {messages[0]}")])


def _batch_counters(expected: Mapping[str, Tensor]) -> StateDict:
    """Batch counters of batch norms: unused, and absent in files from before torch 0.4."""
    names = [name for name in expected if name.endswith(".num_batches_tracked")]
    return {name: torch.zeros((), dtype=torch.long) for name in names}


def _prefix_variants(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """``state``, then ``state`` without the first common step of its names, and so on."""
    remaining: Mapping[str, Tensor] | None = state
    while remaining:
        yield remaining
        remaining = strip_common_prefix(remaining)


def _invalid_tensor_message(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """The first invalid tensor among tensors of correct names and shapes, or nothing."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            return f"{name} is sparse or quantised; needs plain tensors"
        if not expected[name].is_floating_point():
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


def _read_normalisation(
    mean: Tensor | None, std: Tensor | None, expected: Mapping[str, Tensor], path: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The normalisation of a state; None if it has none.

    Raises:
        ConfigError: its number of channels is wrong, it is not finite, or std is 0.
    """
    if mean is None or std is None:
        return None
    # The first weights of a network for images are [out, channels, height, width].
    first_weight = next((tensor for tensor in expected.values() if tensor.dim() == 4), None)
    channels = None if first_weight is None else first_weight.shape[1]
    means, stds = (tuple(tensor.flatten().tolist()) for tensor in (mean, std))
    if error := normalisation_error(means, stds, channels):
        raise ConfigError([Problem(path, error)])
    return means, stds


def _mismatch_message(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """The tensors that are missing, unexpected or of another shape; empty if there are none."""
    shapes = [
        f"{name} is {_format_shape(state[name])} and should be {_format_shape(expected[name])}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    mismatches = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": shapes,
    }
    parts = [f"{kind}: {_format_names(names)}" for kind, names in mismatches.items() if names]
    if mismatches["missing"] and mismatches["unexpected"]:
        parts.append("is the file of another network? If not, rename its tensors so")
    return "; ".join(parts)


def _format_shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _format_names(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
