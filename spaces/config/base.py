"""Config: frozen, strict and typed settings, which also declare the space they span."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.spaces.config.domains import Domain, describe, parse_domain
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown


def knob(default: Any, meaning: str, domain: Domain | None = None, **limits: Any) -> Any:
    """A field that says everything about itself in one line.

    ``domain`` is the range that ``declared`` stands for in an experiment's ``search:``;
    ``limits`` are pydantic's (``ge``, ``gt``, ``le``, ``lt``). A default of ``...`` means required.
    """
    extra: dict[str, Any] | None = {"domain": describe(domain)} if domain is not None else None
    return Field(default, description=meaning, json_schema_extra=extra, **limits)


class Config(BaseModel):
    """Base of every settings class: unknown fields, coercions and changes are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def parse(cls, data: Any, path: str = "") -> Self:
        """Settings from plain data (what YAML gives).

        Raises:
            ConfigError: one problem for each thing wrong, each with its dotted path.
        """
        try:
            return cls.model_validate(_frozen(data))
        except ValidationError as error:
            problems = [p for detail in error.errors() for p in _problems(cls, path, detail)]
            raise ConfigError(problems) from None

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """The fields that declare a domain, with it."""
        found = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, Mapping) and "domain" in extra:
                found[name] = parse_domain(extra["domain"])
        return found

    def plain(self) -> dict[str, Any]:
        """Every field, defaults included, as JSON types."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """sha256 over the canonical JSON: equal settings, equal fingerprint."""
        return fingerprint(self.plain())


def canonical_json(data: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(data: Any) -> str:
    """sha256 (hexadecimal) over the canonical JSON of plain data."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def _problems(cls: type[BaseModel], path: str, detail: Any) -> tuple[Problem, ...]:
    place = [str(part) for part in detail["loc"] if not str(part).startswith("function-")]
    where = ".".join(filter(None, [path, *place]))
    match detail["type"]:
        case "extra_forbidden":
            owner = ".".join(filter(None, [path, *place[:-1]]))
            message = unknown("field", place[-1], _fields_at(cls, place[:-1]))
            return (Problem(owner, message),)
        case "missing":
            return (Problem(where, "is required and missing"),)
        case "value_error":
            inner = detail["ctx"]["error"]
            if isinstance(inner, ConfigError):
                return inner.under(where).problems
            return (Problem(where, str(inner)),)
        case "model_type" | "dict_type":
            return (Problem(where, f"needs a mapping of settings, found {detail['input']!r}"),)
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return (Problem(where, f"{message}, found {detail['input']!r}"),)


def _frozen(data: Any) -> Any:
    """Lists as tuples: YAML knows lists only, and strict validation keeps the two apart."""
    if isinstance(data, Mapping):
        return {key: _frozen(value) for key, value in data.items()}
    return tuple(_frozen(item) for item in data) if isinstance(data, list | tuple) else data


def _fields_at(cls: type[BaseModel], place: list[str]) -> list[str]:
    """The field names of the model at ``place`` below ``cls``."""
    models = [cls]
    for part in place:
        tagged = [m for m in models if "kind" in m.model_fields and _tag(m) == part]
        models = tagged or [inner for m in models for inner in _models_in(m, part)]
    return sorted({name for model in models for name in model.model_fields})


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default


def _models_in(model: type[BaseModel], field: str) -> list[type[BaseModel]]:
    info = model.model_fields.get(field)
    return _models_of(info.annotation) if info else []


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in typing.get_args(annotation) for m in _models_of(inner)]
