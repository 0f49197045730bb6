"""Reader and writer of YAML values by the core schema of YAML 1.2.

``0100`` is a hundred, ``0o10`` is octal, ``0x1f`` hexadecimal, ``1e-4`` a number, and ``1:30`` or a
date is text. Two things go beyond the schema. ``yes``, ``no``, ``on`` and ``off`` are truth values,
as in YAML 1.1. Underscores may group the digits of a decimal number by threes: ``20_000``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_GROUPED = r"[1-9][0-9]{0,2}(?:_[0-9]{3})+"
_INT = re.compile(rf"^(?:[-+]?(?:[0-9]+|{_GROUPED})|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    rf"^(?:[-+]?(?:\.[0-9]+|(?:[0-9]+|{_GROUPED})(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NUMERIC = list("-+.0123456789")
_INHERITED_TAGS = ("bool", "null")

MERGE_KEY = "<<"
"""The key whose mapping, or list of mappings, provides defaults for the mapping around it."""


class CoreSchemaLoader(yaml.SafeLoader):
    """Composes and constructs plain values of the schema."""


class _CoreSchemaDumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as another value."""


def _install_resolvers(cls: Any, resolvers: Mapping[str, Any]) -> None:
    cls.yaml_implicit_resolvers = resolvers
    # The first pattern that fits decides, and every whole number fits the second as well.
    cls.add_implicit_resolver(f"{_TAG}int", _INT, _NUMERIC)
    cls.add_implicit_resolver(f"{_TAG}float", _FLOAT, _NUMERIC)


_install_resolvers(
    CoreSchemaLoader,
    {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(_INHERITED_TAGS)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    },
)
_install_resolvers(
    _CoreSchemaDumper,
    {first: list(found) for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()},
)


def _construct_int(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text, base)


def _construct_float(_: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = node.value.replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


CoreSchemaLoader.add_constructor(f"{_TAG}int", _construct_int)
CoreSchemaLoader.add_constructor(f"{_TAG}float", _construct_float)


def dump(data: Mapping[str, Any]) -> str:
    """A mapping as YAML that reads back as the same values."""
    return yaml.dump(
        dict(data), Dumper=_CoreSchemaDumper, sort_keys=False, allow_unicode=True, width=100
    )
