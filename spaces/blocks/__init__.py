"""Kinds of replacement blocks, one a file; ``resolve`` turns what people write into one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.block import Block

BLOCKS: PluginRegistry[Block] = PluginRegistry("stillhouse.spaces.blocks", Block, "kind of block")


def resolve(spec: Any, path: str = "") -> tuple[str, Block]:
    """The kind and its settings for ``ghost``, ``{ghost: {...}}`` or ``{kind: ghost, ratio: 4}``.

    Raises:
        ConfigError: no such kind (the nearest is named), or settings it does not have.
    """
    kind, settings = _split_spec(spec, path)
    if kind not in BLOCKS.names():
        raise ConfigError([Problem(path, unknown_message(BLOCKS.label, kind, BLOCKS.names()))])
    return kind, BLOCKS.load(kind).parse(settings, path)


def _split_spec(spec: Any, path: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("kind"), str):
        return spec["kind"], {k: v for k, v in spec.items() if k != "kind"}
    if isinstance(spec, Mapping) and len(spec) == 1:
        kind, settings = next(iter(spec.items()))
        if isinstance(settings, Mapping):
            return str(kind), dict(settings)
    message = f"needs a kind of block or {{kind: {{settings}}}}, found {spec!r}"
    raise ConfigError([Problem(path, message)])
