"""Tables on a disk: one column of a Parquet, CSV, TSV or JSON-lines file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from methods.core.data.source import damaged, root_problem
from spaces.problem import unknown

_LONGEST_CELL = 2**31 - 1


def is_table(path: Path) -> bool:
    """Whether the file's ending is one of ``FORMS``."""
    return path.suffix in FORMS


def column(path: Path, name: str, setting: str) -> list[Any]:
    """All values of the column ``name`` in order. CSV holds strings alone.

    Args:
        setting: which names the column, for the message where there is none.

    Raises:
        ConfigError: no such column, a row without a value, or a damaged file; the message names
            the file and the line or row.
    """
    try:
        return FORMS[path.suffix](path, name, setting)
    except (pa.ArrowInvalid, csv.Error, OSError, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def _parquet(path: Path, name: str, setting: str) -> list[Any]:
    _check_column(path, pq.read_schema(path).names, name, setting)
    values: list[Any] = pq.read_table(path, columns=[name])[name].to_pylist()
    return _complete(path, enumerate(values, start=1), name, "row")


def _csv(path: Path, name: str, setting: str) -> list[Any]:
    # Reviews may be longer than the 128 KiB that the module takes for a mistake.
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        _check_column(path, rows.fieldnames or [], name, setting)
        return _complete(path, _cells(path, rows, name), name, "line")


def _cells(path: Path, rows: csv.DictReader[str], name: str) -> Iterator[tuple[int, Any]]:
    """Line number and value; every row has as many cells as there are columns."""
    for row in rows:
        if None in row or None in row.values():
            needed = f"the {len(rows.fieldnames or [])} cells of the header"
            raise damaged(path, f"line {rows.line_num} has more or less than {needed}")
        yield rows.line_num, row[name]


def _json_lines(path: Path, name: str, setting: str) -> list[Any]:
    with path.open(encoding="utf-8-sig") as file:
        return _complete(path, _members(path, file, name, setting), name, "line")


def _members(
    path: Path, lines: Iterable[str], name: str, setting: str
) -> Iterator[tuple[int, Any]]:
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise damaged(path, f"line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise damaged(path, f"line {number} holds no {{column: value}}")
        if first:
            _check_column(path, list(row), name, setting)
        first = False
        yield number, row.get(name)


FORMS: dict[str, Callable[[Path, str, str], list[Any]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
}
"""Ending of a file -> how its columns are read."""


def _complete(path: Path, cells: Iterable[tuple[int, Any]], name: str, unit: str) -> list[Any]:
    values = []
    for number, value in cells:
        if value is None:
            raise root_problem(f"{path} {unit} {number} holds nothing in column {name!r}")
        values.append(value)
    return values


def _check_column(path: Path, columns: Iterable[str], name: str, setting: str) -> None:
    columns = list(columns)
    if name not in columns:
        raise root_problem(f"{path}: {unknown('column', name, columns)} (`{setting}`)")
