"""Network families, one a file; ``resolve`` returns the family that an experiment names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from stillhouse.spaces.config.named import split_named
from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.modules.network import Family

FAMILIES: PluginRegistry[Family] = PluginRegistry(
    "stillhouse.spaces.networks", Family, "network family"
)


def sizes() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Every named size: name -> (family, settings)."""
    return _sizes_of(FAMILIES.names())


@lru_cache
def _sizes_of(families: tuple[str, ...]) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Cached while the families stay the same, because every network that is parsed reads it."""
    return {
        name: (family, MappingProxyType(dict(settings)))
        for family in families
        for name, settings in FAMILIES.load(family).sizes.items()
    }


def resolve(spec: Any, path: str = "") -> tuple[str, Family]:
    """The family and its settings for ``resnet20``, ``{resnet20: {...}}``, ``{resnet: {...}}``
    or the flat form ``{family: resnet, depth: 20}``.

    Raises:
        ConfigError: no such family or size, or settings that the family does not have.
    """
    name, overrides = split_named(spec, path, tag="family")
    known_sizes = sizes()
    if name in known_sizes:
        family, settings = known_sizes[name]
    elif name in FAMILIES.names():
        family, settings = name, {}
    else:
        message = unknown_message("network", name, [*known_sizes, *FAMILIES.names()])
        raise ConfigError([Problem(path, message)])
    return family, FAMILIES.load(family).parse({**settings, **overrides}, path)
