"""Data sources, one per file; ``resolve`` finds the source of an experiment."""

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

    ``defaults`` are settings that ``spec`` can override.

    Raises:
        ConfigError: unknown source (the message names the nearest), or unknown settings.
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
