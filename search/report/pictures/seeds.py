"""What settles a search: the best configurations and the baselines, each over fresh seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.label_layout import worth_showing
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.report.core.roles import BEST, ROLES, Group, Role, groups
from stillhouse.search.results.outcome import Outcome, Repeated
from stillhouse.search.results.statistics import mean_and_spread

_ROW, _HEAD = 0.3, 0.36
"""Inches that a row takes, and a group's name above its rows."""
_LETTERS = 34
"""Of a searched value beside its trial."""
_OTHER = Role("", "", look.FAINT, "s")


def draw(outcome: Outcome) -> Picture | None:
    """One row a configuration, a small dot a seed; none where nothing was repeated."""
    found, goal = groups(outcome), outcome.goals[0]
    if not found:
        return None
    rows = [repeated for group in found for repeated in _rows(group)]
    height = len(rows) * _ROW
    height += sum(_HEAD for group in found if group.name)
    figure = Figure(figsize=(7.6, 0.75 + height), layout="constrained")
    axes = figure.add_subplot()
    look.bare(axes, keep=("bottom",))
    low, high = _limits(rows, goal.figure, goal.maximize)
    axes.set_xlim(low, high)
    known = _settings(outcome, rows)
    ticks, names, place = [], [], 0.0
    for group in found:
        if group.name:
            _head(axes, place + _ROW / 2 - 0.62 * _HEAD, group.name)
            place -= _HEAD
        for repeated in _rows(group):
            _row(axes, place, repeated, goal.figure, _role(repeated, group))
            ticks.append(place)
            told = known.get(repeated.role, "")
            names.append(_name(repeated, group) + (f": {told}" if told else ""))
            place -= _ROW
    axes.set_yticks(ticks, names)
    axes.tick_params("y", labelsize=9, labelcolor=look.INK)
    axes.set_ylim(place + 0.4 * _ROW, 0.6 * _ROW)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel(formatting.axis(goal.figure))
    axes.grid(axis="x")
    return Picture("seeds", "Settled over fresh seeds", _caption(rows), figure)


def _rows(group: Group) -> Iterator[Repeated]:
    """The best, the runners-up, then the baselines."""
    yield group.best
    yield from group.others
    yield from group.against.values()


def _role(repeated: Repeated, group: Group) -> Role:
    return BEST if repeated is group.best else ROLES.get(repeated.role, _OTHER)


def _name(repeated: Repeated, group: Group) -> str:
    if repeated is group.best:
        return f"best: {repeated.role}"
    return ROLES[repeated.role].short if repeated.role in ROLES else repeated.role


def _settings(outcome: Outcome, rows: Sequence[Repeated]) -> dict[str, str]:
    """Trial -> the one value that was searched, in brief; none where several were."""
    roles = {repeated.role for repeated in rows if repeated.tried}
    values = {f"trial {trial.number}": trial.values for trial in outcome.trials}
    tried = {role: values.get(role, {}) for role in roles}
    if len({path for found in tried.values() for path in found}) != 1:
        return {}
    told = {role: _brief(next(iter(found.values()), "")) for role, found in tried.items()}
    shown = formatting.fitted(told.values(), _LETTERS)
    return {role: shown[text] for role, text in told.items()}


def _brief(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Mapping) else formatting.setting(value)


def _limits(rows: Sequence[Repeated], figure: str, maximize: bool) -> tuple[float, float]:
    """The range of the settled; assemblies before fine-tuning may lie far beyond it."""
    ends = [[r.mean(figure) + sign * r.spread(figure) for r in rows] for sign in (1, -1)]
    values = [v for r in rows if r.role != "assembled" for v in r.values(figure)]
    values += [v for some in ends for v, r in zip(some, rows, strict=True) if len(r.records) > 1]
    low, high = worth_showing([formatting.shown(figure, v) for v in values], maximize)
    for value in (formatting.shown(figure, v) for r in rows for v in r.values(figure)):
        if low - 0.5 * (high - low) <= value <= high + 0.5 * (high - low):
            low, high = min(low, value), max(high, value)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return low - room, high + room


def _head(axes: Axes, height: float, name: str) -> None:
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
    axes.axhline(height, color=look.RULE, lw=0.8, zorder=0)


def _row(axes: Axes, height: float, repeated: Repeated, figure: str, role: Role) -> None:
    told, colour = mean_and_spread(figure, repeated), role.colour
    values = [formatting.shown(figure, value) for value in repeated.values(figure)]
    mean, spread = (
        formatting.shown(figure, x) for x in (repeated.mean(figure), repeated.spread(figure))
    )
    low, high = axes.get_xlim()
    if low <= mean <= high:
        axes.plot([mean - spread, mean + spread], [height] * 2, color=colour, lw=2.2, alpha=0.55)
        dots = [height] * len(values)
        axes.scatter(values, dots, s=15, c=colour, ec=look.GROUND, lw=0.6, zorder=3)
        hollow = role.marker == "o"
        fill, edge = (look.GROUND, colour) if hollow else (colour, look.GROUND)
        size, line = (40, 1.5) if hollow else (75 if role.marker in "XP" else 55, 0.8)
        axes.scatter(
            [mean], [height], s=size, c=fill, marker=role.marker, ec=edge, lw=line, zorder=4
        )
    else:
        _beyond(axes, height, mean < low, colour)
    axes.annotate(
        told,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
    )


def _beyond(axes: Axes, height: float, left: bool, colour: str) -> None:
    """A hollow triangle at the edge beyond which the row lies."""
    axes.scatter(
        [0.012 if left else 0.988],
        [height],
        transform=axes.get_yaxis_transform(),
        s=36,
        c=look.GROUND,
        ec=colour,
        lw=1.5,
        marker="<" if left else ">",
        zorder=4,
    )


def _caption(rows: Sequence[Repeated]) -> str:
    once = any(r.role == "assembled" for r in rows)
    counts = {len(r.records) for r in rows if r.role != "assembled"}
    if counts == {1}:
        return "One seed each: no spread is known, and no difference proven."
    many = "/".join(map(str, sorted(counts)))
    told = (
        f"Made anew over {many} seeds: small dots are students, large marks their means, bars one "
        "standard deviation."
    )
    if once:
        told += (
            " Parts and assembly (hollow) are made once, not per seed; a triangle points to one "
            "that lies beyond the axis."
        )
    return told
