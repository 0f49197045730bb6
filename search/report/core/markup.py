"""HTML as values: whatever is not markup already is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Text that is markup; any other text is escaped where it meets markup."""

    __slots__ = ()


def element(tag: str, *inside: Any, **attributes: str) -> Html:
    """``<tag attribute="...">inside</tag>``; ``class_`` stands for ``class``."""
    told = "".join(
        f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{told}>{join(inside)}</{tag}>")


def join(parts: Iterable[Any]) -> Html:
    """Parts behind each other, escaped where they are not markup."""
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, sortable: bool = False) -> Html:
    """A table that scrolls by itself where it is too wide; numbers stand to the right."""
    rows = [list(row) for row in rows]
    right = [all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    right = right or [False] * len(columns)
    head = [_cell("th", column, end) for column, end in zip(columns, right, strict=True)]
    body = [
        element("tr", *(_cell("td", cell, end) for cell, end in zip(row, right, strict=True)))
        for row in rows
    ]
    told = {"class_": "sortable"} if sortable else {}
    inner = (element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", element("table", *inner, **told), class_="wide")


def _cell(tag: str, value: Any, right: bool) -> Html:
    return element(tag, value, **({"class_": "number"} if right else {}))


def _is_number(cell: Any) -> bool:
    """Whether a cell is a number, perhaps with a unit, or nothing."""
    return bool(re.fullmatch(r"-?[\d,.]+(e[-+]?\d+)?( %)?|-|", str(cell)))
