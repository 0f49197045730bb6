"""A factorial: what each technique and distillation gain, alone and together, and the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.evaluation.factorial import Interaction, interactions
from stillhouse.search.experiment.schema import FactorialSettings
from stillhouse.search.experiment.variants import DISTILLED, PLAIN, distilled_role
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.table import Table
from stillhouse.search.results.outcome import Outcome
from stillhouse.search.results.statistics import mean_and_spread

_ROW_INCHES = 0.62  # inches
_GAINS = (
    ("technique_gains", mpl_style.SECOND, "X alone"),
    ("distillation_gains", mpl_style.DIRECT, "distillation alone"),
    ("combined_gains", mpl_style.TRIAL, "both"),
)


def draw(outcome: Outcome) -> Picture | None:
    """Gains on the left, interactions with their intervals on the right; none without any."""
    results = interactions(outcome)
    if not results:
        return None
    settings = FactorialSettings.parse(outcome.factorial)
    figure = Figure(figsize=(7.6, 0.95 + _ROW_INCHES * len(results)), layout="constrained")
    gain_axes, interaction_axes = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1.0))
    metric = outcome.goals[0].figure
    for row, result in enumerate(results):
        _draw_gains(gain_axes, -row, result, metric)
        _draw_interaction(interaction_axes, -row, result, metric)
    margin = formatting.plot_value(metric, settings.margin)
    interaction_axes.axvspan(-margin, margin, color=mpl_style.GRID, zorder=0, lw=0)
    for axes in (gain_axes, interaction_axes):
        mpl_style.hide_frame(axes, keep_spines=("bottom",))
        axes.axvline(0.0, color=mpl_style.FAINT, lw=0.9, zorder=1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="x")
        axes.set_ylim(0.55 - len(results), 0.45)
    gain_axes.set_yticks(
        [-row for row in range(len(results))], [result.technique for result in results]
    )
    gain_axes.tick_params("y", labelcolor=mpl_style.FOREGROUND)
    unit = "points" if formatting.is_share(metric) else formatting.metric_label(metric)
    gain_axes.set_xlabel(f"gain, {unit}")
    interaction_axes.set_xlabel(f"interaction, {unit}")
    handles, labels = gain_axes.get_legend_handles_labels()
    gain_axes.legend(
        handles[:3], labels[:3], loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False
    )
    return Picture("factorial", "Does distillation add to it?", _caption(settings, results), figure)


def _draw_gains(axes: Axes, height: float, result: Interaction, metric: str) -> None:
    """A bar each: the mean gain of X, of distillation and of both over the seeds."""
    for index, (attribute, colour, label) in enumerate(_GAINS):
        mean = formatting.plot_value(metric, statistics.fmean(getattr(result, attribute)))
        axes.barh(height + 0.24 * (1 - index), mean, height=0.2, color=colour, label=label)


def _draw_interaction(axes: Axes, height: float, result: Interaction, metric: str) -> None:
    low, mean, high = (
        formatting.plot_value(metric, x) for x in (result.low, result.mean, result.high)
    )
    axes.plot([low, high], [height] * 2, color=mpl_style.FOREGROUND, lw=1.6, solid_capstyle="butt")
    values = [formatting.plot_value(metric, value) for value in result.values]
    axes.scatter(values, [height] * len(values), s=13, c=mpl_style.FAINT, zorder=2)
    axes.scatter(
        [mean],
        [height],
        s=44,
        c=mpl_style.FOREGROUND,
        marker="s",
        ec=mpl_style.BACKGROUND,
        lw=0.8,
        zorder=4,
    )
    axes.annotate(
        result.verdict,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
    )


def _caption(settings: FactorialSettings, results: Sequence[Interaction]) -> str:
    seeds = len(results[0].values)
    return (
        f"Left: what a technique X, distillation and both gain over neither, means over {seeds} "
        "seeds. Right: what both gain beyond the sum of the two, a dot a seed, the mean and its "
        f"{100 * settings.confidence:g} % interval; within the grey band it counts as none."
    )


def effect_table(outcome: Outcome) -> Table | None:
    """A row a technique: the four students, the interaction and the verdict, and how much
    predictions vary from seed to seed."""
    results = interactions(outcome)
    if not results:
        return None
    settings = FactorialSettings.parse(outcome.factorial)
    metric = outcome.goals[0].figure
    by_role = {seed_runs.role: seed_runs for seed_runs in outcome.seed_runs}
    rows = [
        (
            result.technique,
            *(
                mean_and_spread(metric, by_role[role])
                for role in (PLAIN, result.technique, DISTILLED, distilled_role(result.technique))
            ),
            formatting.format_interval(metric, result.mean, result.low, result.high),
            result.verdict,
            *(
                f"{outcome.variances[role]:.4f}" if role in outcome.variances else ""
                for role in (PLAIN, result.technique, DISTILLED, distilled_role(result.technique))
            ),
        )
        for result in results
    ]
    cells = ("neither", "X alone", "distillation alone", "both")
    columns = ["X", *cells, f"interaction, {100 * settings.confidence:g} % interval", "verdict"]
    return Table.of([*columns, *(f"variance, {cell}" for cell in cells)], rows)
