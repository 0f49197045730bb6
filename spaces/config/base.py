"""Config: frozen, strict and typed settings, which also declare the space they span."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.spaces.config.domains import Domain, parse_domain
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message


def setting(
    default: Any, description: str, domain: Domain | None = None, **constraints: Any
) -> Any:
    """A field with its default, its description and its domain.

    ``declared`` in an experiment's ``search:`` stands for ``domain``. ``constraints`` are those of
    pydantic (``ge``, ``gt``, ``le``, ``lt``). A default of ``...`` makes the field required.
    """
    schema_extra: dict[str, Any] | None = {"domain": domain.plain()} if domain is not None else None
    return Field(default, description=description, json_schema_extra=schema_extra, **constraints)


class Config(BaseModel):
    """Base of every settings class: unknown fields, coercions and changes are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def parse(cls, data: Any, path: str = "") -> Self:
        """Settings from plain data, as YAML gives it.

        Raises:
            ConfigError: one problem for each mistake, with its dotted path.
        """
        try:
            return cls.model_validate(_lists_to_tuples(data))
        except ValidationError as error:
            problems = [p for detail in error.errors() for p in _to_problems(cls, path, detail)]
            raise ConfigError(problems) from None

    @classmethod
    def search_space(cls) -> dict[str, Domain]:
        """The domains of the fields that declare one."""
        domains = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, Mapping) and "domain" in extra:
                domains[name] = parse_domain(extra["domain"])
        return domains

    def plain(self) -> dict[str, Any]:
        """Every field, defaults included, as JSON types."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """sha256 of the canonical JSON: equal settings have equal fingerprints."""
        return fingerprint(self.plain())


def canonical_json(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal values have equal texts. NaN is refused."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(data: Any) -> str:
    """sha256 (hexadecimal) of the canonical JSON of plain data."""
    return hashlib.sha256(canonical_json(data).encode()).hexdigest()


def _to_problems(cls: type[BaseModel], path: str, detail: Any) -> tuple[Problem, ...]:
    location = [str(part) for part in detail["loc"] if not str(part).startswith("function-")]
    path_of_error = ".".join(filter(None, [path, *location]))
    match detail["type"]:
        case "extra_forbidden":
            parent_path = ".".join(filter(None, [path, *location[:-1]]))
            message = unknown_message("field", location[-1], _field_names_at(cls, location[:-1]))
            return (Problem(parent_path, message),)
        case "missing":
            return (Problem(path_of_error, "is required and missing"),)
        case "value_error":
            cause = detail["ctx"]["error"]
            if isinstance(cause, ConfigError):
                return cause.with_prefix(path_of_error).problems
            return (Problem(path_of_error, str(cause)),)
        case "model_type" | "dict_type":
            return (
                Problem(path_of_error, f"needs a mapping of settings, found {detail['input']!r}"),
            )
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return (Problem(path_of_error, f"{message}, found {detail['input']!r}"),)


def _lists_to_tuples(data: Any) -> Any:
    """Lists as tuples: YAML has lists only, and strict validation does not convert them."""
    if isinstance(data, Mapping):
        return {key: _lists_to_tuples(value) for key, value in data.items()}
    return (
        tuple(_lists_to_tuples(item) for item in data) if isinstance(data, list | tuple) else data
    )


def _field_names_at(cls: type[BaseModel], location: list[str]) -> list[str]:
    """The field names of the model at ``location`` below ``cls``."""
    models = [cls]
    for part in location:
        matching = [m for m in models if "kind" in m.model_fields and _kind_of(m) == part]
        models = matching or [inner for m in models for inner in _models_in_field(m, part)]
    return sorted({name for model in models for name in model.model_fields})


def _kind_of(model: type[BaseModel]) -> Any:
    return model.model_fields["kind"].default


def _models_in_field(model: type[BaseModel], field: str) -> list[type[BaseModel]]:
    info = model.model_fields.get(field)
    return _models_in_annotation(info.annotation) if info else []


def _models_in_annotation(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in typing.get_args(annotation) for m in _models_in_annotation(inner)]
