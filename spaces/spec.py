"""NetworkSpec: which network an experiment means, as a value that settings can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from spaces.network import Family, Network, Shape
from spaces.networks import resolve


@dataclass(frozen=True)
class NetworkSpec:
    """A family with its settings. ``label`` is what the experiment called it."""

    label: str
    family: str
    settings: Family

    @classmethod
    def parse(cls, data: Any) -> NetworkSpec:
        """From ``resnet20``, ``{resnet20: {...}}`` or ``{family: resnet, depth: 20, ...}``.

        Raises:
            ConfigError: no such network, or settings it does not have.
        """
        if isinstance(data, NetworkSpec):
            return data
        family, settings = resolve(data)
        return cls(_label(data, family, settings), family, settings)

    def plain(self) -> dict[str, Any]:
        """The flat form, every setting stated; :meth:`parse` reads it back."""
        return {"family": self.family, **self.settings.plain()}

    def identity(self) -> dict[str, Any]:
        """What decides the network: the plain form and the family's version."""
        return {**self.plain(), "version": self.settings.version}

    def build(self, shape: Shape, classes: int) -> Network:
        """A fresh network, initialised from torch's global generator."""
        return self.settings.build(shape, classes)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda spec: spec.plain()
            ),
        )


def _label(data: Any, family: str, settings: Family) -> str:
    """The name people gave; for settings of their own, the family and what sets it apart.

    Without dots, as dots separate the steps of a path to one of several networks.
    """
    if isinstance(data, str):
        return data
    for name, size in type(settings).sizes.items():
        if type(settings).parse(dict(size)) == settings:
            return name
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    return "-".join([family, *(f"{k}{v}" for k, v in changed.items())]).replace(".", "_")
