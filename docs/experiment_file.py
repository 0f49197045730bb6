"""Write ``docs/experiment-file.md``: the template, with a table of fields for each settings class.

The tables come from the settings classes that read the file. ``make docs`` runs this; a test
compares the committed page with :func:`page`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stillhouse.methods.core.data.sources import SOURCES
from stillhouse.methods.core.objective.method import MethodConfig
from stillhouse.search.experiment.schema import ExperimentFile
from stillhouse.search.experiment.tuner_settings import SAMPLERS, SCHEDULERS, TunerSettings
from stillhouse.search.stages.core.config import STAGE_KINDS, StageConfig

FOLDER = Path(__file__).parent
TEMPLATE = FOLDER / "experiment-file.template"
PAGE = FOLDER / "experiment-file.md"

Model = type[BaseModel]

WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
}
PLURAL = ("text", "number", "whole number", "list", "mapping")
CUSTOM = {
    "NetworkSpec": "network name or `{name: {settings}}`",
    "BlockSpec": "block name or `{name: {settings}}`",
    "Objective": "`{method: {settings}}`",
}
"""Types that read themselves from YAML, by class name."""
REGISTRIES = {registry.base: registry for registry in (SAMPLERS, SCHEDULERS)}
"""Base class of plug-ins -> their folder; a field of that class takes any of them."""
LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
LARGEST = 2**32
"""A limit beyond this guards an integer type. It says nothing to a reader, so it is left out."""


def page() -> str:
    """The whole page, from the template and the settings classes."""
    template = Template(TEMPLATE.read_text(encoding="utf-8"))
    sections = Sections()
    # The order counts: a section belongs to the part that refers to it first.
    parts = {
        "top": _table(ExperimentFile, "", sections),
        "settings": sections.written(),
        "stage": _table(StageConfig, "STAGE", sections),
        "kinds": "\n\n".join(_kind(name, sections) for name in STAGE_KINDS.names()),
        "stage_settings": sections.written(),
        "method": _table(MethodConfig, "METHOD", sections),
        "sources": "\n\n".join(_source(name, sections) for name in SOURCES.names()),
        "source_settings": sections.written(),
    }
    return template.substitute(parts)


class Sections:
    """Settings classes that tables refer to, each with the heading under which it is described."""

    def __init__(self) -> None:
        self._headings: dict[Model, str] = {}
        self._waiting: list[Model] = []

    def link(self, model: Model, path: str) -> str:
        """A link to the section of ``model``; the first path that names it is its heading."""
        if model not in self._headings:
            self._headings[model] = _heading(model, path)
            self._waiting.append(model)
        heading = self._headings[model]
        return f"[`{heading}`](#{anchor(heading)})"

    def written(self) -> str:
        """The sections that tables have referred to since the last call, and all below them."""
        return "\n\n".join(self._next())

    def _next(self) -> Iterator[str]:
        while self._waiting:
            model = self._waiting.pop(0)
            heading = self._headings[model]
            base = heading.removesuffix(f": {_kind_of(model)}")
            yield f"### `{heading}`\n\n{_about(model)}\n\n{_table(model, base, self)}"


def anchor(heading: str) -> str:
    """The anchor that GitHub and site generators give to a heading."""
    kept = "".join(c for c in heading.lower() if c.isalnum() or c in " -_")
    return kept.strip().replace(" ", "-")


def _heading(model: Model, path: str) -> str:
    kind = _kind_of(model)
    return f"{path}: {kind}" if kind else path


def _kind_of(model: Model) -> str:
    """``asha`` of a plug-in, or of a class whose field ``kind`` can only be that; else empty."""
    if issubclass(model, TunerSettings):
        return model.kind
    field = model.model_fields.get("kind")
    return str(field.default) if field and typing.get_origin(field.annotation) else ""


def _kind(name: str, sections: Sections) -> str:
    model = STAGE_KINDS.load(name)
    rest = {field for field in StageConfig.model_fields if _same(model, field)}
    return f"### `do: {name}`\n\n{_about(model)}\n\n{_table(model, 'STAGE', sections, rest)}"


def _source(name: str, sections: Sections) -> str:
    model = SOURCES.load(name)
    rest = set(SOURCES.base.model_fields)
    table = _table(model, f"source.{name}", sections, rest)
    return f"### `source: {name}`\n\n{_about(model)}\n\n{table or 'No settings of its own.'}"


def _same(model: Model, field: str) -> bool:
    mine, common = model.model_fields[field], StageConfig.model_fields[field]
    return mine.description == common.description


def _about(model: Model) -> str:
    """The first paragraph of the docstring, in Markdown."""
    return " ".join((model.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")


def _table(
    model: Model, path: str, sections: Sections, left_out: typing.Collection[str] = ()
) -> str:
    fields = {
        name: field
        for name, field in model.model_fields.items()
        if name not in left_out and not (name == "kind" and _kind_of(model))
    }
    if not fields:
        return "" if left_out else "No settings."
    rows = ["| field | value | default | searched as `declared` | meaning |", "|" + " --- |" * 5]
    for name, field in fields.items():
        inner = f"{path}.{name}" if path else name
        cells = (f"`{name}`", _value(field, inner, sections), *_facts(field))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _facts(field: FieldInfo) -> tuple[str, str, str]:
    extra = field.json_schema_extra
    domain: Any = extra.get("domain") if isinstance(extra, Mapping) else None
    searched = f"`{_flow(domain)}`" if domain else ""
    return _default(field), searched, (field.description or "").replace("``", "`")


def _value(field: FieldInfo, path: str, sections: Sections) -> str:
    words = _type(field.annotation, path, sections)
    limits = [
        f"{word} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, word in LIMITS.items()
        if abs(getattr(limit, name, LARGEST)) < LARGEST
    ]
    return ", ".join([words, *limits])


def _type(annotation: Any, path: str, sections: Sections) -> str:
    """A type in words; a settings class as a link to its section."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(inner[0], path, sections)
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in inner if option is not type(None)]
        return " or ".join(_type(option, path, sections) for option in options)
    if origin is tuple:
        return f"list of {_plural(_type(inner[0], path, sections))}"
    if origin is dict:
        if inner[1] is Any:
            return "mapping"
        return f"mapping of names to {_plural(_type(inner[1], f'{path}.NAME', sections))}"
    if registry := REGISTRIES.get(annotation):
        plugins = [registry.load(name) for name in registry.names()]
        return " or ".join(sections.link(plugin, path) for plugin in plugins)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sections.link(annotation, path)
    name = getattr(annotation, "__name__", "")
    return WORDS[annotation] if annotation in WORDS else CUSTOM[name]


def _plural(words: str) -> str:
    first, space, rest = words.partition(" of ")
    return f"{first}s{space}{rest}" if first in PLURAL else words.replace(" name or", " names or")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, BaseModel):
        return _changes(field.default)
    return f"`{_flow(_plain(field.default))}`"


def _changes(settings: BaseModel) -> str:
    """What differs from the defaults of the class; ``kind`` alone names a variant."""
    changed = settings.model_dump(mode="json", exclude_defaults=True)
    kind = _kind_of(type(settings))
    return f"`{kind or _flow(changed)}`" if kind or changed else "its defaults"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    """Lists for tuples, and the methods of an objective with what differs from their defaults."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    terms = getattr(value, "terms", None)
    if terms is None:
        return value
    changed: dict[str, Any] = {"mode": "json", "exclude_defaults": True}
    return {name: term.model_dump(**changed) for name, term in terms.items()}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
