"""What students reached on distilled data alone, against what they reach in real training."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.headline import screening
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.screening import judged

FEWEST = 3
"""Trials; fewer rank nothing."""
_INCHES = (4.6, 3.3)


def draw(outcome: Outcome) -> Picture | None:
    """A dot a trial that was trained for real; none with fewer than three."""
    name = outcome.goals[0].figure
    found = judged(outcome.trials, name)
    if found is None or len(found.pairs) < FEWEST:
        return None
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    xs, ys = (
        [formatting.shown(name, value) for value in some] for some in zip(*found.pairs, strict=True)
    )
    axes.scatter(xs, ys, s=30, fc=look.TRIAL, ec=look.GROUND, lw=0.7, zorder=3)
    axes.set_title(found.told)
    axes.set_xlabel(f"{formatting.axis(name)}, on distilled data")
    axes.set_ylabel(formatting.axis(name))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.07)
    return Picture("screen", "Screened against trained", screening(outcome), figure)
