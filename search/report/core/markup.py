"""HTML as values: whatever is not markup already is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Text that is markup; any other text is escaped where it meets markup."""

    __slots__ = ()


def element(tag: str, *content: Any, **attributes: str) -> Html:
    """``<tag attribute="...">content</tag>``; ``class_`` stands for ``class``."""
    attribute_text = "".join(
        f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Html(f"<{tag}{attribute_text}>{join(content)}</{tag}>")


def join(items: Iterable[Any]) -> Html:
    """Parts behind each other, escaped where they are not markup."""
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in items))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, sortable: bool = False) -> Html:
    """A table that scrolls by itself where it is too wide; numbers stand to the right."""
    rows = [list(row) for row in rows]
    is_numeric = [all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    is_numeric = is_numeric or [False] * len(columns)
    head = [_cell("th", column, end) for column, end in zip(columns, is_numeric, strict=True)]
    body = [
        element("tr", *(_cell("td", cell, end) for cell, end in zip(row, is_numeric, strict=True)))
        for row in rows
    ]
    attributes = {"class_": "sortable"} if sortable else {}
    inner = (element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", element("table", *inner, **attributes), class_="wide")


def _cell(tag: str, value: Any, is_numeric: bool) -> Html:
    return element(tag, value, **({"class_": "number"} if is_numeric else {}))


def _is_number(cell: Any) -> bool:
    """Whether a cell is a number, perhaps with a unit, or nothing."""
    return bool(re.fullmatch(r"-?[\d,.]+(e[-+]?\d+)?( %)?|-|", str(cell)))
