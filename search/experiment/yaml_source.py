"""A YAML document as plain data that remembers on which line each value stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stillhouse.search.experiment.yaml_schema import MERGE, Loader
from stillhouse.spaces.config.problems import ConfigError, Problem

_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null")}
_MAPPING = "tag:yaml.org,2002:map"

MOST_BYTES = 500_000
MOST_VALUES = 20_000
DEEPEST = 60
"""Levels of nesting; like the other two, far above any experiment's."""
LARGEST = 2**63

_BEGINNING, _END = "# Whole only if its last line is three dots.\n", "\n..."


@dataclass(frozen=True)
class Document:
    """``data`` as plain values; ``lines`` maps a dotted path to its line, counted from 1.

    ``laid_over`` holds the paths whose values were not read from the file, but given with --set;
    ``text`` is what was read.
    """

    file: str
    data: Any
    lines: dict[str, int] = field(default_factory=dict)
    laid_over: set[str] = field(default_factory=set)
    text: str = ""

    def place(self, path: str) -> str:
        """``file:line`` of the value at ``path``, or of the nearest value around it."""
        around = [path[:end] for end in (*_dots(path), len(path))]
        made = path not in self.lines and any(p.startswith(f"{path}.") for p in self.laid_over)
        if made or self.laid_over.intersection(around):
            return "--set"
        known = [self.lines[outer] for outer in around if outer in self.lines]
        line = known[-1] if known else self.lines.get("")
        return f"{self.file}:{line}" if line else self.file

    def locate(self, error: ConfigError) -> ConfigError:
        """The same problems, each beginning with the file and line it stands on."""
        return ConfigError(Problem(self.place(_whole(p)), str(p)) for p in error.problems)


def _dots(path: str) -> list[int]:
    return [place for place, letter in enumerate(path) if letter == "."]


def _whole(problem: Problem) -> str:
    """The path, down to the field where one that does not exist is told at its owner."""
    found = re.match(r"unknown field '(.+?)'", problem.message)
    return f"{problem.path}.{found[1]}".removeprefix(".") if found else problem.path


def read_document(file: Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: unreadable, not YAML, a key given twice, a tag, several documents, too large,
            its end is missing.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(MOST_BYTES + 1).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem(str(file), "there is no such file")]) from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError) and error.start >= MOST_BYTES - 3:
            raise _too_large(str(file)) from None
        raise ConfigError([Problem(str(file), f"cannot be read as text: {error}")]) from None
    _check_end(text, str(file))
    return parse_document(text, str(file))


def with_end(text: str) -> str:
    """A YAML text that :func:`read_document` refuses once its end is missing."""
    return f"{_BEGINNING}{text.rstrip()}{_END}\n"


def without_end(text: str) -> str:
    """The text as it was before :func:`with_end`."""
    return text.removeprefix(_BEGINNING).removesuffix("\n").removesuffix(_END) + "\n"


def _check_end(text: str, file: str) -> None:
    if text.startswith(_BEGINNING) and not text.rstrip().endswith(_END):
        message = (
            "its end is missing, as after a full disk or a loss of power; put a whole copy in its "
            "place (MLflow keeps experiment.yaml and best.yaml of every run)"
        )
        raise ConfigError([Problem(file, message)])


def parse_document(text: str, file: str = "<text>") -> Document:
    """Like :func:`read_document`, for text that is already here."""
    if len(text) > MOST_BYTES or len(text.encode(errors="replace")) > MOST_BYTES:
        raise _too_large(file)
    try:
        root = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = " ".join(filter(None, (error.context, error.problem)))
        raise ConfigError([Problem(f"{file}:{line}", f"is not valid YAML: {what}")]) from None
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise ConfigError([Problem(file, f"is not valid YAML: {what}")]) from None
    except RecursionError:
        raise ConfigError([Problem(file, "is not valid YAML: it is nested too deep")]) from None
    except ValueError as error:  # an escape that stands for no letter
        raise ConfigError([Problem(file, f"is not valid YAML: {error}")]) from None
    reader = _Reader(file)
    data = reader.value(root, "", 0) if root is not None else None
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(file, data, reader.lines, text=without_end(text))


def is_text(value: str) -> bool:
    """Whether it can be written to a file: no half of a surrogate pair in it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_large(file: str) -> ConfigError:
    message = f"is larger than {MOST_BYTES:,} bytes, which no experiment is"
    return ConfigError([Problem(file, message)])


class _Pair(NamedTuple):
    """A key of a mapping and its value, with the places where they stand."""

    key: yaml.ScalarNode
    value: yaml.Node


class _Reader:
    """Turns composed nodes into values, collecting lines and problems on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.values = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._count(node, depth)
        match node:
            case yaml.MappingNode() if node.tag == _MAPPING:
                return self._mapping(node, path, depth)
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                items = enumerate(node.value)
                return [self.value(item, f"{path}.{i}", depth + 1) for i, item in items]
            case yaml.ScalarNode() if node.tag in _PLAIN:
                return self._scalar(node, path)
        self._problem(node, path, f"tags are not allowed, found {node.tag!r}; write a plain value")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        try:
            if not is_text(node.value):
                raise ValueError("half a letter")
            value = Loader("").construct_object(node)
        except (ValueError, yaml.YAMLError):
            self._problem(node, path, f"cannot be read as a value: {node.value!r}; quote it")
            return None
        if isinstance(value, int) and abs(value) > LARGEST:
            self._problem(node, path, "is a whole number beyond 2^63, which nothing here is")
            return None
        return value

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, pair in self._pairs(node, path, depth).items():
            inner = f"{path}.{key}" if path else key
            self.lines[inner] = pair.key.start_mark.line + 1
            found[key] = self.value(pair.value, inner, depth + 1)
        return found

    def _pairs(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, _Pair]:
        """A mapping's own keys, over those that ``<<`` lays under them."""
        own = self._keys(node, path)
        under: dict[str, _Pair] = {}
        for key, pair in list(own.items()):
            if _is_merge(pair.key):
                under = self._laid_under(own.pop(key).value, path, depth + 1)
        return {**under, **own}

    def _laid_under(self, node: yaml.Node, path: str, depth: int) -> dict[str, _Pair]:
        """The keys that ``<<: node`` brings; of several mappings the first that has a key."""
        self._count(node, depth)
        found: dict[str, _Pair] = {}
        for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(each, yaml.MappingNode) or each.tag != _MAPPING:
                needed = "<< needs a mapping or a list of mappings, such as *name"
                self._problem(each, path, f"{needed}, found {_shown(each)}")
                continue
            self._count(each, depth, len(each.value))
            for key, pair in self._pairs(each, path, depth).items():
                found.setdefault(key, pair)
        return found

    def _keys(self, node: yaml.MappingNode, path: str) -> dict[str, _Pair]:
        """The keys that stand in a mapping itself, each with its place and its value."""
        found: dict[str, _Pair] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, path, "a key must be a plain word")
                continue
            key = str(key_node.value)
            if not is_text(key):
                self._problem(key_node, path, f"a key must be a plain word, found {key!r}")
            elif key in found:
                first = found[key].key.start_mark.line + 1
                inner = f"{path}.{key}" if path else key
                remedy = "; write <<: [*one, *other]" if _is_merge(key_node) else ""
                message = f"this key is given twice (first on line {first}){remedy}"
                self._problem(key_node, inner, message)
            else:
                found[key] = _Pair(key_node, value_node)
        return found

    def _count(self, node: yaml.Node, depth: int, values: int = 1) -> None:
        """Bound the work: an alias may name what it stands in, or double what it names."""
        self.values += values
        if self.values > MOST_VALUES or depth > DEEPEST:
            message = "is too deep or too large; does an alias (*name) contain itself?"
            raise ConfigError([Problem(f"{self.file}:{node.start_mark.line + 1}", message)])

    def _problem(self, node: yaml.Node, path: str, message: str) -> None:
        text = f"{path}: {message}" if path else message
        self.problems.append(Problem(f"{self.file}:{node.start_mark.line + 1}", text))


def _is_merge(key: yaml.ScalarNode) -> bool:
    """Whether it is the bare word ``<<``; in quotes it is a key like others."""
    return key.value == MERGE and key.style is None


def _shown(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else "a list"
