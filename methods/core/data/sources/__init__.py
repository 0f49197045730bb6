"""Data sources, one a file; ``resolve`` turns what an experiment says into one of them."""

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

    ``defaults`` are settings that hold unless ``spec`` states others.

    Raises:
        ConfigError: no such source (the nearest is named), or settings it does not have.
    """
    name, settings = split_named(spec)
    return name, SOURCES.load(name).parse({**defaults, **settings}, name)
