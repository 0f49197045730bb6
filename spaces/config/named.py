"""``name`` or ``{name: {settings}}``: how an experiment file picks one plug-in of a registry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from stillhouse.spaces.config.base import Config
from stillhouse.spaces.config.plugins import PluginRegistry
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message

SettingsT = TypeVar("SettingsT", bound=Config)


class PlainSchema:
    """Mixin for a field type: pydantic reads it with ``parse`` and writes it with ``plain``."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,  # type: ignore[attr-defined]
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.plain()
            ),
        )


@dataclass(frozen=True)
class Named(PlainSchema, Generic[SettingsT]):
    """One plug-in of ``registry`` with its settings. ``label`` is the short form for people.

    ``tag`` is the field of the flat form that holds the name: ``{kind: ghost, ratio: 4}``.
    """

    label: str
    name: str
    settings: SettingsT

    registry: ClassVar[PluginRegistry[Any]]
    tag: ClassVar[str]

    @classmethod
    def parse(cls, data: Any) -> Self:
        """From ``ghost``, ``{ghost: {ratio: 4}}`` or the flat form.

        Raises:
            ConfigError: no such plug-in, or settings that it does not have.
        """
        if isinstance(data, cls):
            return data
        name, values = split_named(data, tag=cls.tag, noun=cls.registry.label)
        settings = cls.registry.load(name).parse(values)
        return cls(default_label(name, settings), name, settings)

    def plain(self) -> dict[str, Any]:
        """The flat form with every setting stated; :meth:`parse` reads it back."""
        return {self.tag: self.name, **self.settings.plain()}

    def identity(self) -> dict[str, Any]:
        """Everything that decides the object: the plain form and the plug-in's version."""
        return {**self.plain(), "version": self.settings.version}  # type: ignore[attr-defined]


def split_named(
    data: Any, path: str = "", tag: str = "", noun: str = ""
) -> tuple[str, dict[str, Any]]:
    """The name and the settings of one of the forms that :class:`Named` reads.

    Args:
        path: the field, for messages.
        tag: the field of the flat form that holds the name; empty where there is no flat form.
        noun: a plug-in in messages, where "name" says too little.

    Raises:
        ConfigError: ``data`` has none of the forms.
    """
    if isinstance(data, str):
        return data, {}
    if tag and isinstance(data, Mapping) and isinstance(data.get(tag), str):
        return data[tag], {k: v for k, v in data.items() if k != tag}
    if isinstance(data, Mapping) and len(data) == 1:
        ((name, settings),) = data.items()
        if isinstance(settings, Mapping):
            return str(name), dict(settings)
    form = f"a {noun} or {{{tag}: {{settings}}}}" if noun else "a name or {name: {settings}}"
    raise ConfigError([Problem(path, f"needs {form}, found {data!r}")])


def default_label(name: str, settings: Config) -> str:
    """The name and the settings that differ from their defaults.

    A label has no dots, because dots separate the steps of a path.
    """
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    return "-".join([name, *(f"{k}{v}" for k, v in changed.items())]).replace(".", "_")


def to_flat_form(
    noun: str, names: Collection[str], allow_none: bool = False
) -> Callable[[Any], Any]:
    """A validator that brings ``name`` and ``{name: {settings}}`` into ``{kind: name, ...}``.

    It goes before a union that pydantic tells apart by ``kind``. ``allow_none`` accepts
    ``{name: null}``.
    """

    def validate(data: Any) -> Any:
        if isinstance(data, Config):
            return data
        if isinstance(data, str):
            data = {"kind": data}
        if isinstance(data, Mapping) and len(data) == 1 and "kind" not in data:
            ((kind, settings),) = data.items()
            if not (isinstance(settings, Mapping) or (allow_none and settings is None)):
                raise ConfigError(f"needs {{{kind}: {{settings}}}}, found {data!r}")
            data = {"kind": kind, **(settings or {})}
        if not (isinstance(data, Mapping) and "kind" in data):
            raise ConfigError(f"needs a name or {{name: {{settings}}}}, found {data!r}")
        if data["kind"] not in names:
            raise ConfigError(unknown_message(noun, data["kind"], names))
        return data

    return validate
