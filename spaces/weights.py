"""Weights that others published: read from a file, renamed, checked, and loaded whole or not."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from spaces.network import Family, Network
from spaces.problem import ConfigError, Problem

State = dict[str, Tensor]
_WRAPPERS = ("state_dict", "model", "net")
_NORMALISATION = ("mean", "std")


def read_state(path: str | PathLike[str]) -> State:
    """The tensors in a ``.safetensors`` file, or in one that ``torch.save`` wrote.

    Of the latter nothing but tensors is ever unpickled. A training checkpoint's wrapping
    (``{"state_dict": ...}``) and the ``module.`` that data parallelism prepends are taken off.

    Raises:
        ConfigError: the file is missing or damaged, or holds something else.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError([Problem(str(file), "there is no such file of weights")])
    try:
        if file.suffix == ".safetensors":
            data: Any = load_file(file)
        else:
            data = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged pickle raises whatever its bytes happen to spell.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        message = f"cannot be read as weights, it is damaged or of another kind: {reason}"
        raise ConfigError([Problem(str(file), message)]) from None
    return _unwrapped(data, str(file))


def _unwrapped(data: Any, path: str) -> State:
    for name in _WRAPPERS:
        if isinstance(data, Mapping) and isinstance(data.get(name), Mapping):
            data = data[name]
    if not isinstance(data, Mapping) or not data:
        found = type(data).__name__
        raise ConfigError([Problem(path, f"needs named tensors, found {found}")])
    for name, value in data.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ConfigError([Problem(path, f"needs named tensors, but {name!r} is none")])
    parallel = all(name.startswith("module.") for name in data)
    return {name.removeprefix("module.") if parallel else name: t for name, t in data.items()}


def renamed(state: Mapping[str, Tensor], modules: Mapping[str, str]) -> State:
    """``state`` with each module's path replaced, the longest path in ``modules`` first.

    Names under no such path stay as they are.
    """
    return {_rename(name, modules): tensor for name, tensor in state.items()}


def _rename(name: str, modules: Mapping[str, str]) -> str:
    path = name
    while path:
        path = path.rpartition(".")[0]
        if path in modules:
            return modules[path] + name[len(path) :]
    return name


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
        ConfigError: a tensor is missing, left over or of another shape; nothing was loaded then.
    """
    given = family.from_published(state)
    mean, std = family.published_mean, family.published_std
    if "mean" in given and "std" in given:
        mean, std = (tuple(given.pop(name).flatten().tolist()) for name in _NORMALISATION)
    own = {k: t for k, t in network.state_dict().items() if k not in _NORMALISATION}
    # Counters of batches seen; files from before torch 0.4 lack them, and nothing reads them.
    counters = {k: t for k, t in own.items() if k.endswith(".num_batches_tracked")}
    if message := _mismatch(own, {**counters, **given}):
        raise ConfigError([Problem(path, f"does not fit this network: {message}")])
    kept = {name: getattr(network, name) for name in _NORMALISATION}
    network.load_state_dict({**counters, **given, **kept})
    if mean is None or std is None:
        return network
    return network.normalised_with(mean, std)


def _mismatch(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What is missing, left over and mis-shaped, or nothing."""
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
    return "; ".join(f"{what}: {_some(names)}" for what, names in found.items() if names)


def _dimensions(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
