"""Data sources, one a file; ``resolve`` turns what an experiment says into one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillhouse.methods.core.data.base.source import Source
from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.config.problems import ConfigError

SOURCES: PluginRegistry[Source] = PluginRegistry(
    "stillhouse.methods.core.data.sources", Source, "data source"
)


def resolve(spec: Any, **defaults: Any) -> tuple[str, Source]:
    """The name and the settings for ``cifar10`` or ``{parquet: {...}}``.

    ``defaults`` are settings that hold unless ``spec`` states others.

    Raises:
        ConfigError: no such source (the nearest is named), or settings it does not have.
    """
    name, settings = _split_spec(spec)
    return name, SOURCES.load(name).parse({**defaults, **settings}, name)


def _split_spec(spec: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, settings = next(iter(spec.items()))
        if isinstance(settings, Mapping):
            return str(name), dict(settings)
    raise ConfigError(f"needs a name or {{name: {{settings}}}}, found {spec!r}")
