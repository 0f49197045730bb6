"""Checkpoint files: reads the tensors from the files that training scripts write."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stillhouse.spaces.config.problems import ConfigError, Problem, first_line

StateDict = dict[str, Tensor]

WRAPPER_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "module",
    "net",
    "network",
    "params",
    "weights",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
)
"""Keys of a checkpoint that hold a network's tensors. The first key present is used, so plain
weights are preferred to their moving average."""
MAX_WRAPPER_DEPTH = 8
"""The maximum number of nested wrappers."""
_COMPILE_PREFIX = "_orig_mod."
"""The prefix of torch.compile before the names of compiled modules."""
_FOREIGN_FILES = {
    b"<!doctype": "is an HTML page; download the file itself",
    b"<html": "is an HTML page; download the file itself",
    b"version https://git-lfs": "is a Git LFS pointer; fetch the file itself (git lfs pull)",
}


def read_state(path: str | PathLike[str]) -> StateDict:
    """The tensors in a ``.safetensors`` file, or in one that ``torch.save`` wrote.

    Only tensors are unpickled. Wrappers such as ``{"state_dict": ...}`` are removed, also nested
    ones, and so are the prefixes of torch.compile and data parallelism.

    Raises:
        ConfigError: the file is missing or corrupt, or holds no weights.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError([Problem(str(file), "there is no such file of weights")])
    try:
        if file.suffix == ".safetensors":
            data: Any = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the checks below report the same problems
                data = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # A corrupt pickle can raise any exception.
        raise ConfigError([Problem(str(file), _read_error_message(file, error))]) from None
    return _strip_prefixes(_unwrap(data, str(file)))


def strip_common_prefix(state: Mapping[str, Tensor]) -> StateDict | None:
    """``state`` without the first step that all its names share; None if they share none.

    A trainer that holds the network in an attribute adds such a step, for example ``model.``.
    """
    first_steps = {name.partition(".")[0] for name in state}
    if len(first_steps) != 1 or not all("." in name for name in state):
        return None
    return {name.partition(".")[2]: tensor for name, tensor in state.items()}


def _read_error_message(file: Path, error: Exception) -> str:
    """Why a file cannot be read, in one line without terminal codes."""
    try:
        with file.open("rb") as stream:
            head = stream.read(64).lstrip().lower()
    except OSError as unreadable:
        return f"cannot be read: {unreadable.strerror}"
    for start, kind in _FOREIGN_FILES.items():
        if head.startswith(start):
            return kind
    if "Unsupported global" in str(error) or "Unsupported class" in str(error):
        return "holds Python objects beside tensors; save model.state_dict() alone"
    message = first_line(error)
    message = message.partition(". This file can still be loaded")[0]
    return f"cannot be read as weights, it is damaged or of another kind: {message}"


def _unwrap(data: Any, path: str) -> StateDict:
    """The mapping of names to tensors inside a checkpoint.

    Raises:
        ConfigError: there is none, or there are several and no key identifies the network's.
    """
    for _ in range(MAX_WRAPPER_DEPTH):
        inner = _unwrap_once(data, path)
        if inner is None:
            break
        data = inner
    if not isinstance(data, Mapping) or not data:
        raise ConfigError([Problem(path, f"needs named tensors, found {type(data).__name__}")])
    for name, value in data.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ConfigError([Problem(path, f"needs named tensors, but {name!r} is none")])
    return dict(data)


def _unwrap_once(data: Any, path: str) -> Any:
    """The content of a wrapper; None if ``data`` is not a wrapper."""
    if not isinstance(data, Mapping):
        return None
    for name in WRAPPER_KEYS:
        if isinstance(data.get(name), Mapping):
            return data[name]
    candidates = {name: value for name, value in data.items() if _holds_tensors(value)}
    if len(candidates) > 1:
        names = ", ".join(map(str, candidates))
        message = f"holds several networks ({names}); save the one that is meant alone"
        raise ConfigError([Problem(path, message)])
    return next(iter(candidates.values()), None)


def _holds_tensors(value: Any, depth: int = MAX_WRAPPER_DEPTH) -> bool:
    """Whether ``value`` is a mapping of names to tensors, possibly inside wrappers.

    The state of an optimiser is not, because its keys are numbers.
    """
    if not (isinstance(value, Mapping) and value and depth):
        return False
    if all(isinstance(name, str) and isinstance(inner, Tensor) for name, inner in value.items()):
        return True
    return any(isinstance(name, str) and _holds_tensors(v, depth - 1) for name, v in value.items())


def _strip_prefixes(state: StateDict) -> StateDict:
    """``state`` without the prefixes of torch.compile, data parallelism and AveragedModel.

    ``_orig_mod`` may occur anywhere, because single modules can be compiled. ``n_averaged`` is the
    counter of torch's AveragedModel, whose other names all begin with ``module.``.
    """
    state = {name.replace(_COMPILE_PREFIX, ""): tensor for name, tensor in state.items()}
    weights = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    while weights and all(name.startswith("module.") for name in weights):
        state = weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return state


def rename_tensors(state: Mapping[str, Tensor], modules: Mapping[str, str]) -> StateDict:
    """``state`` with each module's path replaced, the longest path in ``modules`` first.

    Names under no such path stay as they are.
    """
    return {_rename_tensor(name, modules): tensor for name, tensor in state.items()}


def _rename_tensor(name: str, modules: Mapping[str, str]) -> str:
    path = name
    while path:
        path = path.rpartition(".")[0]
        if path in modules:
            return modules[path] + name[len(path) :]
    return name
