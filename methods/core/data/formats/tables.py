"""Tables on a disk: one column of a Parquet, CSV, TSV or JSON-lines file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.methods.core.data.base.file_kinds import Form, head_of
from stillhouse.methods.core.data.base.source import damaged, root_problem, wrong_kind
from stillhouse.spaces.config.problems import ConfigError, unknown

_LONGEST_CELL = 2**31 - 1
Fault = Callable[[Any], str | None]
"""Why a value does not belong in a column; none if it does."""
_Cells = Iterable[tuple[int, Any]]
"""Number of the line or row, and the value."""


def is_table(path: Path) -> bool:
    """Whether the file's ending is one of ``FORMS``."""
    return path.suffix in FORMS


def column(path: Path, name: str, setting: str, fault: Fault) -> list[Any]:
    """All values of the column ``name`` in order. CSV holds strings alone.

    Args:
        setting: which names the column, for the message where there is none.
        fault: checks every value.

    Raises:
        ConfigError: no such column, a row without a value or with a faulty one, or a damaged
            file; the message names the file and the line or row.
    """
    form: Form = "Parquet" if path.suffix == ".parquet" else "text"
    if not (head := head_of(path)):
        raise damaged(path, "it is empty", form)
    if (stranger := wrong_kind(path, head, form)) is not None:
        raise stranger
    try:
        return FORMS[path.suffix](path, name, setting, fault)
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        why = str(error) if form == "Parquet" else _undecodable(path, error)
        raise damaged(path, why, form) from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise damaged(path, error, form) from None


def _parquet(path: Path, name: str, setting: str, fault: Fault) -> list[Any]:
    _check_column(path, pq.read_schema(path).names, name, setting)
    values: list[Any] = pq.read_table(path, columns=[name])[name].to_pylist()
    return _complete(path, enumerate(values, start=1), name, "row", fault)


def _csv(path: Path, name: str, setting: str, fault: Fault) -> list[Any]:
    # Reviews may be longer than the 128 KiB that the module takes for a mistake.
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = _cells(path, _csv_rows(path, file), name, setting)
        return _complete(path, cells, name, "line", fault)


def _csv_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The line on which each row begins, and its cells."""
    reader = csv.reader(file, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            message = f"line {begins}: {error}"
            if "unexpected end" in str(error):
                message += "; a quote that opens in this row is not closed"
            raise damaged(path, message, "text") from None
        if row is None:
            return
        yield begins, row


def _tsv(path: Path, name: str, setting: str, fault: Fault) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = (line.removesuffix("\n").removesuffix("\r") for line in file)
        # A quote is a letter like others here: tab-separated files have no quoting.
        rows = ((n, line.split("\t") if line else []) for n, line in enumerate(lines, start=1))
        return _complete(path, _cells(path, rows, name, setting), name, "line", fault)


def _cells(
    path: Path, rows: Iterable[tuple[int, list[str]]], name: str, setting: str
) -> Iterator[tuple[int, str]]:
    """One column below a header; every row has as many cells as the header, or none at all."""
    rows = ((line, row) for line, row in rows if row)
    _, header = next(iter(rows), (0, []))
    _check_column(path, header, name, setting)
    place, needed = header.index(name), len(header)
    for line, row in rows:
        if len(row) != needed:
            message = f"line {line} has {len(row)} cells, and the header has {needed}"
            raise damaged(path, message, "text")
        yield line, row[place]


def _json_lines(path: Path, name: str, setting: str, fault: Fault) -> list[Any]:
    with path.open(encoding="utf-8-sig") as file:
        return _complete(path, _members(path, file, name, setting), name, "line", fault)


def _members(
    path: Path, lines: Iterable[str], name: str, setting: str
) -> Iterator[tuple[int, Any]]:
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parsed(path, number, line)
        if not isinstance(row, dict):
            what = f"line {number} holds no {{column: value}}"
            raise damaged(path, f"{what}; each line must be one JSON object", "text")
        if first:
            _check_column(path, list(row), name, setting)
        first = False
        yield number, row.get(name)


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise damaged(path, f"line {number} is nested too deep", "text") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        why = str(error).split(";")[0]
        raise damaged(path, f"line {number} is no JSON: {why}", "text") from None


FORMS: dict[str, Callable[[Path, str, str, Fault], list[Any]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
}
"""Ending of a file -> how its columns are read."""


def _complete(path: Path, cells: _Cells, name: str, unit: str, fault: Fault) -> list[Any]:
    values = []
    for number, value in cells:
        # Also the NaN that pandas writes where there is nothing.
        if value is None or value != value:
            raise root_problem(f"{path} {unit} {number} holds nothing in column {name!r}")
        if found := fault(value):
            raise root_problem(f"{path} {unit} {number}, column {name!r}: {found}")
        values.append(value)
    return values


def _check_column(path: Path, columns: Iterable[str], name: str, setting: str) -> None:
    columns = list(columns)
    if name not in columns:
        raise root_problem(f"{path}: {unknown('column', name, columns)} (`{setting}`)")
    if columns.count(name) > 1:
        message = f"{path} has {columns.count(name)} columns {name!r}; give each its own name"
        raise root_problem(message)


def _undecodable(path: Path, error: UnicodeDecodeError) -> str:
    """The line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                return f"line {number} is not UTF-8 ({found.reason}); save the file as UTF-8"
    return str(error)
