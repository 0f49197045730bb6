"""A table of the page, as plain values; templates turn it into markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Columns and rows. Cells are escaped unless they are ``markupsafe.Markup``."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    sortable: bool = False

    @classmethod
    def of(
        cls, columns: Iterable[str], rows: Iterable[Sequence[Any]], *, sortable: bool = False
    ) -> Table | None:
        """The table; None if it has no rows."""
        cells = tuple(tuple(row) for row in rows)
        return cls(tuple(columns), cells, sortable) if cells else None

    @property
    def is_numeric(self) -> list[bool]:
        """Whether each column holds numbers, which stand to the right."""
        return [all(map(_is_number, column)) for column in zip(*self.rows, strict=True)]


def _is_number(cell: Any) -> bool:
    """Whether a cell is a number, perhaps with a unit, or empty."""
    return bool(re.fullmatch(r"-?[\d,.]+(e[-+]?\d+)?( %)?|-|", str(cell)))
