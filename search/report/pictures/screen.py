"""The accuracy on distilled data alone against the accuracy in real training."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.headline import screen_sentence
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.screening import screen_quality

MIN_PAIRS = 3
"""Trials; fewer rank nothing."""
_INCHES = (4.6, 3.3)


def draw(outcome: Outcome) -> Picture | None:
    """A dot a trial that was trained for real; none with fewer than three."""
    metric = outcome.goals[0].figure
    quality = screen_quality(outcome.trials, metric)
    if quality is None or len(quality.pairs) < MIN_PAIRS:
        return None
    figure = Figure(figsize=_INCHES, layout="constrained")
    axes = figure.subplots()
    xs, ys = (
        [formatting.plot_value(metric, value) for value in column]
        for column in zip(*quality.pairs, strict=True)
    )
    axes.scatter(xs, ys, s=30, fc=mpl_style.TRIAL, ec=mpl_style.BACKGROUND, lw=0.7, zorder=3)
    axes.set_title(quality.correlation_text)
    axes.set_xlabel(f"{formatting.axis_label(metric)}, on distilled data")
    axes.set_ylabel(formatting.axis_label(metric))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.07)
    return Picture("screen", "Screened against trained", screen_sentence(outcome), figure)
