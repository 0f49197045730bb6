"""Prints the output of commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

console = Console(highlight=False)
if not console.is_terminal:
    console = Console(highlight=False, width=160)  # a pipe has no width


def print_json(value: Any) -> None:
    """Print plain data as JSON, nothing else."""
    typer.echo(json.dumps(value, indent=1))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Print rows under headings; columns of numbers are aligned to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=title or None, box=None, pad_edge=False, title_justify="left")
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell_text(cell) for cell in row))
    console.print(table)


def _cell_text(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:,.4f}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)
