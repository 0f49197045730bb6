"""A factorial: what each technique and distillation gain, alone and together, and the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.evaluation.factorial import Interaction, interactions
from stillhouse.search.experiment.schema import Factorial
from stillhouse.search.experiment.variants import DISTILLED, PLAIN, with_distillation
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.markup import Html, table
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.statistics import mean_and_spread

_ROW = 0.62  # inches
_KINDS = (
    ("alone", look.SECOND, "X alone"),
    ("taught", look.DIRECT, "distillation alone"),
    ("both", look.TRIAL, "both"),
)


def draw(outcome: Outcome) -> Picture | None:
    """Gains on the left, interactions with their intervals on the right; none without any."""
    found = interactions(outcome)
    if not found:
        return None
    asked = Factorial.parse(outcome.factorial)
    figure = Figure(figsize=(7.6, 0.95 + _ROW * len(found)), layout="constrained")
    gains, added = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1.0))
    name = outcome.goals[0].figure
    for row, one in enumerate(found):
        _gains(gains, -row, one, name)
        _interaction(added, -row, one, name)
    margin = formatting.shown(name, asked.margin)
    added.axvspan(-margin, margin, color=look.RULE, zorder=0, lw=0)
    for axes in (gains, added):
        look.bare(axes, keep=("bottom",))
        axes.axvline(0.0, color=look.FAINT, lw=0.9, zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="x")
        axes.set_ylim(0.55 - len(found), 0.45)
    gains.set_yticks([-row for row in range(len(found))], [one.technique for one in found])
    gains.tick_params("y", labelcolor=look.INK)
    points = "points" if formatting.is_share(name) else formatting.name(name)
    gains.set_xlabel(f"gain, {points}")
    added.set_xlabel(f"interaction, {points}")
    handles, labels = gains.get_legend_handles_labels()
    gains.legend(
        handles[:3], labels[:3], loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False
    )
    return Picture("factorial", "Does distillation add to it?", _caption(asked, found), figure)


def _gains(axes: Axes, height: float, one: Interaction, figure: str) -> None:
    """A bar each: the mean gain of X, of distillation and of both over the seeds."""
    for place, (kind, colour, label) in enumerate(_KINDS):
        mean = formatting.shown(figure, statistics.fmean(getattr(one, kind)))
        axes.barh(height + 0.24 * (1 - place), mean, height=0.2, color=colour, label=label)


def _interaction(axes: Axes, height: float, one: Interaction, figure: str) -> None:
    low, mean, high = (formatting.shown(figure, x) for x in (one.low, one.mean, one.high))
    axes.plot([low, high], [height] * 2, color=look.INK, lw=1.6, solid_capstyle="butt")
    values = [formatting.shown(figure, value) for value in one.values]
    axes.scatter(values, [height] * len(values), s=13, c=look.FAINT, zorder=2)
    axes.scatter([mean], [height], s=44, c=look.INK, marker="s", ec=look.GROUND, lw=0.8, zorder=4)
    axes.annotate(
        one.verdict,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
    )


def _caption(asked: Factorial, found: Sequence[Interaction]) -> str:
    seeds = len(found[0].values)
    return (
        f"Left: what a technique X, distillation and both gain over neither, means over {seeds} "
        "seeds. Right: what both gain beyond the sum of the two, a dot a seed, the mean and its "
        f"{100 * asked.confidence:g} % interval; within the grey band it counts as none."
    )


def section(outcome: Outcome) -> Html | None:
    """A row a technique: the four students, the interaction and the verdict, and how much
    predictions vary from seed to seed."""
    found = interactions(outcome)
    if not found:
        return None
    asked = Factorial.parse(outcome.factorial)
    figure = outcome.goals[0].figure
    made = {repeated.role: repeated for repeated in outcome.repeats}
    rows = [
        (
            one.technique,
            *(
                mean_and_spread(figure, made[role])
                for role in (PLAIN, one.technique, DISTILLED, with_distillation(one.technique))
            ),
            formatting.interval(figure, one.mean, one.low, one.high),
            one.verdict,
            *(
                f"{outcome.variances[role]:.4f}" if role in outcome.variances else ""
                for role in (PLAIN, one.technique, DISTILLED, with_distillation(one.technique))
            ),
        )
        for one in found
    ]
    cells = ("neither", "X alone", "distillation alone", "both")
    heads = ["X", *cells, f"interaction, {100 * asked.confidence:g} % interval", "verdict"]
    return table([*heads, *(f"variance, {cell}" for cell in cells)], rows)
