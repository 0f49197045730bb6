"""A YAML document as plain data, with the line of each value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stillhouse.search.experiment.yaml_schema import MERGE_KEY, CoreSchemaLoader
from stillhouse.spaces.config.problems import ConfigError, Problem

_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_MAPPING_TAG = "tag:yaml.org,2002:map"

MAX_BYTES = 500_000
MAX_VALUES = 20_000
MAX_DEPTH = 60
"""Levels of nesting; like the other two, far above any experiment's."""
MAX_INTEGER = 2**63

_HEADER, _END_MARK = "# Whole only if its last line is three dots.\n", "\n..."


@dataclass(frozen=True)
class Document:
    """``data`` as plain values; ``lines`` maps a dotted path to its line, counted from 1.

    ``overridden`` has the paths whose values come from --set; ``text`` is the text of the file.
    """

    file: str
    data: Any
    lines: dict[str, int] = field(default_factory=dict)
    overridden: set[str] = field(default_factory=set)
    text: str = ""

    def location(self, path: str) -> str:
        """``file:line`` of the value at ``path``, or of the nearest value around it."""
        prefixes = [path[:end] for end in (*_dot_positions(path), len(path))]
        is_created = path not in self.lines and any(
            p.startswith(f"{path}.") for p in self.overridden
        )
        if is_created or self.overridden.intersection(prefixes):
            return "--set"
        known_lines = [self.lines[outer] for outer in prefixes if outer in self.lines]
        line = known_lines[-1] if known_lines else self.lines.get("")
        return f"{self.file}:{line}" if line else self.file

    def locate(self, error: ConfigError) -> ConfigError:
        """The same problems, each with its file and line."""
        return ConfigError(Problem(self.location(_full_path(p)), str(p)) for p in error.problems)


def _dot_positions(path: str) -> list[int]:
    return [position for position, letter in enumerate(path) if letter == "."]


def _full_path(problem: Problem) -> str:
    """The path of a problem, extended by the name of an unknown field."""
    match = re.match(r"unknown field '(.+?)'", problem.message)
    return f"{problem.path}.{match[1]}".removeprefix(".") if match else problem.path


def read_document(file: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: unreadable, invalid YAML, a duplicate key, a tag, several documents, too
            large, incomplete.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(str(file), "there is no such file")]) from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError) and error.start >= MAX_BYTES - 3:
            raise _too_large(str(file)) from None
        raise ConfigError([Problem(str(file), f"cannot be read as text: {error}")]) from None
    _check_end_mark(text, str(file))
    return parse_document(text, str(file))


def with_end_mark(text: str) -> str:
    """A YAML text that :func:`read_document` refuses once its end is missing."""
    return f"{_HEADER}{text.rstrip()}{_END_MARK}\n"


def without_end_mark(text: str) -> str:
    """The text before :func:`with_end_mark`."""
    return text.removeprefix(_HEADER).removesuffix("\n").removesuffix(_END_MARK) + "\n"


def _check_end_mark(text: str, file: str) -> None:
    if text.startswith(_HEADER) and not text.rstrip().endswith(_END_MARK):
        message = (
            "its end is missing, as after a full disk or a loss of power; put a whole copy in its "
            "place (MLflow keeps experiment.yaml and best.yaml of every run)"
        )
        raise ConfigError([Problem(file, message)])


def parse_document(text: str, file: str = "<text>") -> Document:
    """Like :func:`read_document`, for text."""
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise _too_large(file)
    try:
        root = yaml.compose(text, Loader=CoreSchemaLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        description = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(
            [Problem(f"{file}:{line}", f"is not valid YAML: {description}")]
        ) from None
    except yaml.YAMLError as error:
        description = " ".join(str(error).split())
        raise ConfigError([Problem(file, f"is not valid YAML: {description}")]) from None
    except RecursionError:
        raise ConfigError([Problem(file, "is not valid YAML: it is nested too deep")]) from None
    except ValueError as error:  # an escape that stands for no letter
        raise ConfigError([Problem(file, f"is not valid YAML: {error}")]) from None
    reader = _Reader(file)
    data = reader.value(root, "", 0) if root is not None else None
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(file, data, reader.lines, text=without_end_mark(text))


def is_encodable(value: str) -> bool:
    """Whether the text can be written to a file: it has no half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_large(file: str) -> ConfigError:
    message = f"is larger than {MAX_BYTES:,} bytes, which no experiment is"
    return ConfigError([Problem(file, message)])


class _KeyValue(NamedTuple):
    """The nodes of a key and its value."""

    key: yaml.ScalarNode
    value: yaml.Node


class _Reader:
    """Converts composed nodes to values, and collects lines and problems."""

    def __init__(self, file: str) -> None:
        self.file_name = file
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.values = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count(node, depth)
        match node:
            case yaml.MappingNode() if node.tag == _MAPPING_TAG:
                return self._mapping(node, path, depth)
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                items = enumerate(node.value)
                return [self.value(item, f"{path}.{i}", depth + 1) for i, item in items]
            case yaml.ScalarNode() if node.tag in _PLAIN_TAGS:
                return self._scalar(node, path)
        self._problem(node, path, f"tags are not allowed, found {node.tag!r}; write a plain value")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        try:
            if not is_encodable(node.value):
                raise ValueError("half a letter")
            value = CoreSchemaLoader("").construct_object(node)
        except (ValueError, yaml.YAMLError):
            self._problem(node, path, f"cannot be read as a value: {node.value!r}; quote it")
            return None
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            self._problem(node, path, "is a whole number beyond 2^63, which nothing here is")
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, pair in self._pairs(node, path, depth).items():
            inner = f"{path}.{key}" if path else key
            self.lines[inner] = pair.key.start_mark.line + 1
            mapping[key] = self.value(pair.value, inner, depth + 1)
        return mapping

    def _pairs(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, _KeyValue]:
        """The keys of a mapping, including those that ``<<`` merges into it."""
        own = self._keys(node, path)
        merged: dict[str, _KeyValue] = {}
        for key, pair in list(own.items()):
            if _is_merge(pair.key):
                merged = self._merged_pairs(own.pop(key).value, path, depth + 1)
        return {**merged, **own}

    def _merged_pairs(self, node: yaml.Node, path: str, depth: int) -> dict[str, _KeyValue]:
        """The keys that ``<<: node`` merges; the first mapping with a key wins."""
        self._count(node, depth)
        merged: dict[str, _KeyValue] = {}
        for mapping in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(mapping, yaml.MappingNode) or mapping.tag != _MAPPING_TAG:
                needed = "<< needs a mapping or a list of mappings, such as *name"
                self._problem(mapping, path, f"{needed}, found {_format_node(mapping)}")
                continue
            self._count(mapping, depth, len(mapping.value))
            for key, pair in self._pairs(mapping, path, depth).items():
                merged.setdefault(key, pair)
        return merged

    def _keys(self, node: yaml.MappingNode, path: str) -> dict[str, _KeyValue]:
        """The keys of a mapping without merged ones."""
        keys: dict[str, _KeyValue] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, path, "a key must be a plain word")
                continue
            key = str(key_node.value)
            if not is_encodable(key):
                self._problem(key_node, path, f"a key must be a plain word, found {key!r}")
            elif key in keys:
                first = keys[key].key.start_mark.line + 1
                inner = f"{path}.{key}" if path else key
                remedy = "; write <<: [*one, *other]" if _is_merge(key_node) else ""
                message = f"this key is given twice (first on line {first}){remedy}"
                self._problem(key_node, inner, message)
            else:
                keys[key] = _KeyValue(key_node, value_node)
        return keys

    def _count(self, node: yaml.Node, depth: int, values: int = 1) -> None:
        """Limit depth and size: an alias may contain itself or double its content."""
        self.values += values
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            message = "is too deep or too large; does an alias (*name) contain itself?"
            raise ConfigError([Problem(f"{self.file_name}:{node.start_mark.line + 1}", message)])

    def _problem(self, node: yaml.Node, path: str, message: str) -> None:
        text = f"{path}: {message}" if path else message
        self.problems.append(Problem(f"{self.file_name}:{node.start_mark.line + 1}", text))


def _is_merge(key: yaml.ScalarNode) -> bool:
    """Whether the key is a bare ``<<``; in quotes it is an ordinary key."""
    return key.value == MERGE_KEY and key.style is None


def _format_node(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list"
