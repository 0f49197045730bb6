"""NetworkSpec: which network an experiment means, as a value that settings can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from spaces.network import Family, Network, Shape
from spaces.networks import resolve
from spaces.view import Moments, View


@dataclass(frozen=True)
class NetworkSpec:
    """A family with its settings. ``label`` is what the experiment called it.

    ``sees`` is the view of images that it is given; none means all of them.
    """

    label: str
    family: str
    settings: Family
    sees: View | None = None

    @classmethod
    def parse(cls, data: Any) -> NetworkSpec:
        """From ``resnet20``, ``{resnet20: {...}}`` or ``{family: resnet, depth: 20, ...}``.

        ``sees: {...}`` may stand among the settings.

        Raises:
            ConfigError: no such network, or settings it does not have.
        """
        if isinstance(data, NetworkSpec):
            return data
        told, sees = _parted(data)
        family, settings = resolve(told)
        spec = cls(_label(told, family, settings), family, settings)
        return spec.seeing(View.parse(sees, "sees")) if sees is not None else spec

    def seeing(self, view: View | None) -> NetworkSpec:
        """The same network, given a view of images; unchanged if None."""
        if view is None:
            return self
        return replace(self, label=f"{self.label}-{view.label}", sees=view)

    def plain(self) -> dict[str, Any]:
        """The flat form, every setting stated; :meth:`parse` reads it back."""
        sees = {"sees": self.sees.plain()} if self.sees else {}
        return {"family": self.family, **self.settings.plain(), **sees}

    def identity(self) -> dict[str, Any]:
        """What decides the network: the plain form and the family's version."""
        return {**self.plain(), "version": self.settings.version}

    def build(self, shape: Shape, classes: int) -> Network:
        """A fresh network for images of ``shape``, initialised from torch's global generator.

        Raises:
            ConfigError: it does not fit these images.
        """
        if self.sees is None:
            return self.settings.build(shape, classes)
        return self.sees.before(self.settings.build(self.sees.shape(shape), classes))

    def normalisation(self, mean: Moments, std: Moments) -> tuple[Moments, Moments]:
        """What it subtracts from images and divides them by, where images need these."""
        return self.sees.normalisation(mean, std) if self.sees else (mean, std)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda spec: spec.plain()
            ),
        )


def _parted(data: Any) -> tuple[Any, Any]:
    """What names a network, and what says which view it is given."""
    if not isinstance(data, Mapping):
        return data, None
    if "sees" in data:
        return {k: v for k, v in data.items() if k != "sees"}, data["sees"]
    if len(data) == 1 and isinstance(inner := next(iter(data.values())), Mapping):
        told, sees = _parted(inner) if "sees" in inner else (inner, None)
        return {next(iter(data)): told}, sees
    return data, None


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
