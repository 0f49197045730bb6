"""Columns of Parquet, CSV, TSV and JSON-lines files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.methods.core.data.base.file_kinds import FileForm, read_head
from stillhouse.methods.core.data.base.source import (
    damaged_file_error,
    root_error,
    wrong_form_error,
)
from stillhouse.spaces.config.problems import ConfigError, unknown_message

_MAX_CELL_LENGTH = 2**31 - 1
CellCheck = Callable[[Any], str | None]
"""Returns why a value is invalid in a column; None if it is valid."""
_NumberedCells = Iterable[tuple[int, Any]]
"""Line or row numbers with values."""


def is_table(path: Path) -> bool:
    """Whether there is a reader for the ending of the file."""
    return path.suffix in COLUMN_READERS


def read_column(path: Path, name: str, setting: str, check: CellCheck) -> list[Any]:
    """All values of the column ``name`` in order; CSV and TSV give strings.

    Args:
        setting: the setting that names the column, for messages.
        check: checks every value.

    Raises:
        ConfigError: the column is unknown, a value is missing or invalid, or the file is damaged;
            the message names the file and the line or row.
    """
    expected: FileForm = "Parquet" if path.suffix == ".parquet" else "text"
    if not (head := read_head(path)):
        raise damaged_file_error(path, "it is empty", expected)
    if (error_of_form := wrong_form_error(path, head, expected)) is not None:
        raise error_of_form
    try:
        return COLUMN_READERS[path.suffix](path, name, setting, check)
    except ConfigError:
        raise
    except UnicodeDecodeError as error:
        explanation = str(error) if expected == "Parquet" else _undecodable_line(path, error)
        raise damaged_file_error(path, explanation, expected) from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise damaged_file_error(path, error, expected) from None


def _parquet(path: Path, name: str, setting: str, fault: CellCheck) -> list[Any]:
    _check_column(path, pq.read_schema(path).names, name, setting)
    values: list[Any] = pq.read_table(path, columns=[name])[name].to_pylist()
    return _check_cells(path, enumerate(values, start=1), name, "row", fault)


def _csv(path: Path, name: str, setting: str, fault: CellCheck) -> list[Any]:
    # Texts may be longer than the module's limit of 128 KiB.
    csv.field_size_limit(_MAX_CELL_LENGTH)
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = _select_column(path, _csv_rows(path, file), name, setting)
        return _check_cells(path, cells, name, "line", fault)


def _csv_rows(path: Path, file: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The first line of each row, and its cells."""
    reader = csv.reader(file, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            message = f"line {begins}: {error}"
            if "unexpected end" in str(error):
                message += "; a quote that opens in this row is not closed"
            raise damaged_file_error(path, message, "text") from None
        if row is None:
            return
        yield begins, row


def _tsv(path: Path, name: str, setting: str, fault: CellCheck) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = (line.removesuffix("\n").removesuffix("\r") for line in file)
        # Tab-separated files have no quoting.
        rows = ((n, line.split("\t") if line else []) for n, line in enumerate(lines, start=1))
        return _check_cells(path, _select_column(path, rows, name, setting), name, "line", fault)


def _select_column(
    path: Path, rows: Iterable[tuple[int, list[str]]], name: str, setting: str
) -> Iterator[tuple[int, str]]:
    """One column below a header; every row has as many cells as the header, or none."""
    rows = ((line, row) for line, row in rows if row)
    _, header = next(iter(rows), (0, []))
    _check_column(path, header, name, setting)
    column_index, num_cells = header.index(name), len(header)
    for line, row in rows:
        if len(row) != num_cells:
            message = f"line {line} has {len(row)} cells, and the header has {num_cells}"
            raise damaged_file_error(path, message, "text")
        yield line, row[column_index]


def _json_lines(path: Path, name: str, setting: str, fault: CellCheck) -> list[Any]:
    with path.open(encoding="utf-8-sig") as file:
        return _check_cells(path, _json_values(path, file, name, setting), name, "line", fault)


def _json_values(
    path: Path, lines: Iterable[str], name: str, setting: str
) -> Iterator[tuple[int, Any]]:
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse_json(path, number, line)
        if not isinstance(row, dict):
            fault = f"line {number} holds no {{column: value}}"
            raise damaged_file_error(path, f"{fault}; each line must be one JSON object", "text")
        if first:
            _check_column(path, list(row), name, setting)
        first = False
        yield number, row.get(name)


def _parse_json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError:
        raise damaged_file_error(path, f"line {number} is nested too deep", "text") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        reason = str(error).split(";")[0]
        raise damaged_file_error(path, f"line {number} is no JSON: {reason}", "text") from None


COLUMN_READERS: dict[str, Callable[[Path, str, str, CellCheck], list[Any]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_lines,
}
"""Ending of a file -> reader of its columns."""


def _check_cells(
    path: Path, cells: _NumberedCells, name: str, unit: str, check: CellCheck
) -> list[Any]:
    values = []
    for number, value in cells:
        # pandas writes NaN for a missing value.
        if value is None or value != value:
            raise root_error(f"{path} {unit} {number} holds nothing in column {name!r}")
        if error := check(value):
            raise root_error(f"{path} {unit} {number}, column {name!r}: {error}")
        values.append(value)
    return values


def _check_column(path: Path, columns: Iterable[str], name: str, setting_name: str) -> None:
    columns = list(columns)
    if name not in columns:
        raise root_error(f"{path}: {unknown_message('column', name, columns)} (`{setting_name}`)")
    if columns.count(name) > 1:
        message = f"{path} has {columns.count(name)} columns {name!r}; give each its own name"
        raise root_error(message)


def _undecodable_line(path: Path, error: UnicodeDecodeError) -> str:
    """A message that names the line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as line_error:
                return f"line {number} is not UTF-8 ({line_error.reason}); save the file as UTF-8"
    return str(error)
