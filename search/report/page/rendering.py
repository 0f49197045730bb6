"""The templates of the pages. Everything that is not markup is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from stillhouse.search.report.core.mpl_style import DARK_COLOURS, css_variable

_FOLDER = Path(__file__).parent / "templates"


def render(template: str, /, **values: Any) -> str:
    """A page that needs no other file."""
    script = (_FOLDER / "sort.js").read_text(encoding="utf-8")
    return _environment().get_template(template).render(style=_style(), script=script, **values)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _style() -> str:
    """The page's style, with the colours of the pictures for light and dark."""
    light = "".join(f"{css_variable(colour)}:{colour};" for colour in DARK_COLOURS)
    dark = "".join(f"{css_variable(colour)}:{dark};" for colour, dark in DARK_COLOURS.items())
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        + (_FOLDER / "style.css").read_text(encoding="utf-8")
    )
