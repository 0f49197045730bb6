"""The best configurations and the baselines over fresh seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.label_layout import robust_range
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.roles import (
    BEST_STYLE,
    ROLE_STYLES,
    ComparisonGroup,
    RoleStyle,
    comparison_groups,
)
from stillhouse.search.results.outcome import Outcome, SeedRuns
from stillhouse.search.results.statistics import mean_and_spread

_ROW_INCHES, _HEAD_INCHES = 0.3, 0.36
"""Inches that a row takes, and a group's name above its rows."""
_MAX_LETTERS = 34
"""Of a searched value beside its trial."""
_RUNNER_UP = RoleStyle("", "", mpl_style.FAINT, "s")


def draw(outcome: Outcome) -> Picture | None:
    """One row a configuration, a small dot a seed; none where nothing was repeated."""
    all_groups, goal = comparison_groups(outcome), outcome.goals[0]
    if not all_groups:
        return None
    rows = [seed_runs for group in all_groups for seed_runs in _group_rows(group)]
    height = len(rows) * _ROW_INCHES
    height += sum(_HEAD_INCHES for group in all_groups if group.name)
    figure = Figure(figsize=(7.6, 0.75 + height), layout="constrained")
    axes = figure.add_subplot()
    mpl_style.hide_frame(axes, keep_spines=("bottom",))
    low, high = _axis_limits(rows, goal.figure, goal.maximize)
    axes.set_xlim(low, high)
    settings = _setting_by_role(outcome, rows)
    ticks, names, height_now = [], [], 0.0
    for group in all_groups:
        if group.name:
            _draw_group_name(axes, height_now + _ROW_INCHES / 2 - 0.62 * _HEAD_INCHES, group.name)
            height_now -= _HEAD_INCHES
        for seed_runs in _group_rows(group):
            _draw_row(axes, height_now, seed_runs, goal.figure, _role_style(seed_runs, group))
            ticks.append(height_now)
            setting_text = settings.get(seed_runs.role, "")
            names.append(
                _row_name(seed_runs, group) + (f": {setting_text}" if setting_text else "")
            )
            height_now -= _ROW_INCHES
    axes.set_yticks(ticks, names)
    axes.tick_params("y", labelsize=9, labelcolor=mpl_style.FOREGROUND)
    axes.set_ylim(height_now + 0.4 * _ROW_INCHES, 0.6 * _ROW_INCHES)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel(formatting.axis_label(goal.figure))
    axes.grid(axis="x")
    return Picture("seeds", "Settled over fresh seeds", _caption(rows), figure)


def _group_rows(group: ComparisonGroup) -> Iterator[SeedRuns]:
    """The best, the runners-up, then the baselines."""
    yield group.best_runs
    yield from group.runners_up
    yield from group.baselines.values()


def _role_style(seed_runs: SeedRuns, group: ComparisonGroup) -> RoleStyle:
    return (
        BEST_STYLE if seed_runs is group.best_runs else ROLE_STYLES.get(seed_runs.role, _RUNNER_UP)
    )


def _row_name(seed_runs: SeedRuns, group: ComparisonGroup) -> str:
    if seed_runs is group.best_runs:
        return f"best: {seed_runs.role}"
    return ROLE_STYLES[seed_runs.role].label if seed_runs.role in ROLE_STYLES else seed_runs.role


def _setting_by_role(outcome: Outcome, rows: Sequence[SeedRuns]) -> dict[str, str]:
    """Trial -> the one value that was searched, in brief; none where several were."""
    roles = {seed_runs.role for seed_runs in rows if seed_runs.is_trial}
    values = {f"trial {trial.number}": trial.values for trial in outcome.trials}
    searched = {role: values.get(role, {}) for role in roles}
    if len({path for values_found in searched.values() for path in values_found}) != 1:
        return {}
    texts = {
        role: _short_value(next(iter(values_found.values()), ""))
        for role, values_found in searched.items()
    }
    fitted_texts = formatting.fit_names(texts.values(), _MAX_LETTERS)
    return {role: fitted_texts[text] for role, text in texts.items()}


def _short_value(value: Any) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, Mapping)
        else formatting.format_setting(value)
    )


def _axis_limits(rows: Sequence[SeedRuns], metric: str, maximize: bool) -> tuple[float, float]:
    """The range of the settled; assemblies before fine-tuning may lie far beyond it."""
    ends = [[r.mean(metric) + sign * r.spread(metric) for r in rows] for sign in (1, -1)]
    values = [v for r in rows if r.role != "assembled" for v in r.values(metric)]
    values += [v for side in ends for v, r in zip(side, rows, strict=True) if len(r.records) > 1]
    low, high = robust_range([formatting.plot_value(metric, v) for v in values], maximize)
    for value in (formatting.plot_value(metric, v) for r in rows for v in r.values(metric)):
        if low - 0.5 * (high - low) <= value <= high + 0.5 * (high - low):
            low, high = min(low, value), max(high, value)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def _draw_group_name(axes: Axes, height: float, name: str) -> None:
    axes.annotate(
        name,
        (0.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        fontweight="bold",
        annotation_clip=False,
    )
    axes.axhline(height, color=mpl_style.GRID, lw=0.8, zorder=0)


def _draw_row(axes: Axes, height: float, seed_runs: SeedRuns, metric: str, role: RoleStyle) -> None:
    text, colour = mean_and_spread(metric, seed_runs), role.colour
    values = [formatting.plot_value(metric, value) for value in seed_runs.values(metric)]
    mean, spread = (
        formatting.plot_value(metric, x) for x in (seed_runs.mean(metric), seed_runs.spread(metric))
    )
    low, high = axes.get_xlim()
    if low <= mean <= high:
        axes.plot([mean - spread, mean + spread], [height] * 2, color=colour, lw=2.2, alpha=0.55)
        dots = [height] * len(values)
        axes.scatter(values, dots, s=15, c=colour, ec=mpl_style.BACKGROUND, lw=0.6, zorder=3)
        is_hollow = role.marker == "o"
        fill, edge = (mpl_style.BACKGROUND, colour) if is_hollow else (colour, mpl_style.BACKGROUND)
        size, edge_width = (40, 1.5) if is_hollow else (75 if role.marker in "XP" else 55, 0.8)
        axes.scatter(
            [mean], [height], s=size, c=fill, marker=role.marker, ec=edge, lw=edge_width, zorder=4
        )
    else:
        _draw_out_of_range(axes, height, mean < low, colour)
    axes.annotate(
        text,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
    )


def _draw_out_of_range(axes: Axes, height: float, is_left: bool, colour: str) -> None:
    """A hollow triangle at the edge beyond which the row lies."""
    axes.scatter(
        [0.012 if is_left else 0.988],
        [height],
        transform=axes.get_yaxis_transform(),
        s=36,
        c=mpl_style.BACKGROUND,
        ec=colour,
        lw=1.5,
        marker="<" if is_left else ">",
        zorder=4,
    )


def _caption(rows: Sequence[SeedRuns]) -> str:
    has_assembly = any(r.role == "assembled" for r in rows)
    counts = {len(r.records) for r in rows if r.role != "assembled"}
    if counts == {1}:
        return "One seed each: no spread is known, and no difference proven."
    counts_text = "/".join(map(str, sorted(counts)))
    caption = (
        f"Made anew over {counts_text} seeds: small dots are students, large marks their "
        "means, bars one "
        "standard deviation."
    )
    if has_assembly:
        caption += (
            " Parts and assembly (hollow) are made once, not per seed; a triangle points to one "
            "that lies beyond the axis."
        )
    return caption
