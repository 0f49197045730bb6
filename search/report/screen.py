"""What students reached on distilled data alone, against what they reach in real training."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from search.outcome import Outcome
from search.report import picture as look
from search.report import wording
from search.report.headline import screening
from search.report.picture import Picture
from search.screened import judged

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
        [wording.shown(name, value) for value in some] for some in zip(*found.pairs, strict=True)
    )
    axes.scatter(xs, ys, s=30, fc=look.TRIAL, ec=look.GROUND, lw=0.7, zorder=3)
    axes.set_title(found.told)
    axes.set_xlabel(f"{wording.axis(name)}, on distilled data")
    axes.set_ylabel(wording.axis(name))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.07)
    return Picture("screen", "Screened against trained", screening(outcome), figure)
