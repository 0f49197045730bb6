"""Data sources, one per file; ``resolve`` finds the source of an experiment."""

from __future__ import annotations

from typing import Any

from stillhouse.methods.core.data.base.source import Source
from stillhouse.spaces.config.named import split_named
from stillhouse.spaces.config.plugins import PluginRegistry

SOURCES: PluginRegistry[Source] = PluginRegistry(
    "stillhouse.methods.core.data.sources", Source, "data source"
)


def resolve(spec: Any, **defaults: Any) -> tuple[str, Source]:
    """The name and the settings for ``cifar10`` or ``{parquet: {...}}``.

    ``defaults`` are settings that ``spec`` can override.

    Raises:
        ConfigError: unknown source (the message names the nearest), or unknown settings.
    """
    name, settings = split_named(spec)
    return name, SOURCES.load(name).parse({**defaults, **settings}, name)
