"""The common style of pictures, and their files: SVG, PNG, and SVG inside a page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.search.core.durable import write_atomically
from stillhouse.search.report.core.table import Table

if TYPE_CHECKING:  # colours and names are wanted where nothing is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND, FOREGROUND, MUTED, GRID, FAINT = "#ffffff", "#1f2328", "#6b7280", "#e4e7eb", "#b9c0c9"
TRIAL, ASSISTANT, TEACHER, DIRECT, PLAIN = "#0072b2", "#e69f00", "#d55e00", "#cc79a7", "#7a7f87"
SECOND, THIRD = "#009e73", "#7a5bb0"
SCRATCH, UNIFORM = "#111827", "#8c5a2b"
"""Okabe and Ito's colours, which people with colour-blindness tell apart, a purple and a brown."""

DARK_COLOURS = {
    BACKGROUND: "#16191d",
    FOREGROUND: "#e6e8eb",
    MUTED: "#9aa3ad",
    GRID: "#2b3037",
    FAINT: "#5b636d",
    TRIAL: "#56b4e9",
    ASSISTANT: "#f0b840",
    TEACHER: "#ff8a4c",
    DIRECT: "#e8a3c8",
    PLAIN: "#a3a9b1",
    SECOND: "#2fc79a",
    THIRD: "#b59df0",
    SCRATCH: "#f3f4f6",
    UNIFORM: "#cf9a63",
}
"""Each colour's counterpart on a dark page."""

_RC_PARAMS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.0,
    "text.parse_math": False,  # names may hold dollar signs
    "text.color": FOREGROUND,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": FOREGROUND,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.labelcolor": MUTED,
    "legend.handletextpad": 0.3,
    "legend.borderaxespad": 0.0,
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
    "savefig.facecolor": BACKGROUND,
    "svg.fonttype": "none",  # the page's own font, and text that can be searched
    "svg.hashsalt": "stillhouse",  # the same picture has the same bytes
}


@contextmanager
def use_style() -> Iterator[None]:
    """Draw and save within this, so that all pictures look alike whatever the user's settings."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC_PARAMS)
        yield


@dataclass(frozen=True)
class Picture:
    """A drawn figure. ``name`` becomes the files' name, ``caption`` says what is to be seen.

    ``below`` stands under it on the page, such as a table of what is drawn.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    below: Table | None = None

    def save(self, folder: Path) -> list[Path]:
        """Write ``<name>.svg`` and ``<name>.png``."""
        vector, raster = folder / f"{self.name}.svg", folder / f"{self.name}.png"
        pixels = io.BytesIO()
        self.figure.savefig(pixels, format="png", dpi=160, metadata={"Software": None})
        return [write_atomically(vector, self._svg), write_atomically(raster, pixels.getvalue())]

    def inline(self) -> str:
        """The SVG as an element of a page that defines the colours as ``--c-<hexadecimal>``."""
        text = self._svg
        text = text[text.index("<svg") :]
        text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
        text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
        for colour in DARK_COLOURS:
            text = text.replace(f": {colour}", f": var({css_variable(colour)})")
        # Several pictures share the page: each has names of its own.
        text = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\g<1>{self.name}-", text)
        title = html.escape(self.title)
        return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)

    @cached_property
    def _svg(self) -> str:
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def css_variable(colour: str) -> str:
    """The name under which a page defines a colour."""
    return f"--c-{colour.removeprefix('#')}"


def hide_frame(axes: Axes, *, keep_spines: tuple[str, ...] = ()) -> None:
    """Take away spines, grid and ticks, but for the spines in ``keep_spines``."""
    for side, spine in axes.spines.items():
        spine.set_visible(side in keep_spines)
    axes.grid(False)
    if "left" not in keep_spines:
        axes.set_yticks([])
    if "bottom" not in keep_spines:
        axes.set_xticks([])
