"""How answers are shown: tables for people, one JSON value for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stillhouse.search.core.addresses import scrub
from stillhouse.search.experiment.yaml_source import parse_document
from stillhouse.spaces.config.problems import ConfigError, Problem

JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON value.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Lay a value over the file; repeatable."),
]

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=160)  # a pipe has no edge to wrap at


def print_json(value: Any) -> None:
    """Print plain data as JSON, nothing else."""
    typer.echo(json.dumps(value, indent=1))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print rows under headings; numbers stand to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=title or None, box=None, pad_edge=False, title_justify="left")
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell_text(cell) for cell in row))
    console.print(table)


def parse_overrides(pairs: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """``PATH=VALUE`` pairs with the values read as YAML.

    Raises:
        ConfigError: a pair without ``=``, or a value that is not YAML.
    """
    overrides = {}
    for pair in pairs or []:
        path, separator, text = pair.partition("=")
        if not (path and separator):
            raise ConfigError([Problem(option, f"needs PATH=VALUE, found {scrub(pair)!r}")])
        try:
            overrides[path] = parse_document(text).data
        except ConfigError:
            message = f"the value of {scrub(pair)!r} is not YAML"
            raise ConfigError([Problem(option, message)]) from None
    return overrides


def _cell_text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.4f}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
