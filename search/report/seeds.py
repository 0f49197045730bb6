"""What settles a search: the best configurations and the baselines, each over fresh seeds."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from search.outcome import Outcome, Repeated
from search.report import picture as look
from search.report import wording
from search.report.picture import Picture
from search.report.summary import champion, settled

COLOURS: Mapping[str, str] = {"best": look.TRIAL, "direct": look.DIRECT, "plain": look.PLAIN}
NAMES: Mapping[str, str] = {
    "direct": "direct: the teacher alone",
    "plain": "plain: labels alone",
}


def compared(outcome: Outcome) -> dict[str, Repeated]:
    """The best configuration and its baselines, as far as they were made over seeds."""
    best = champion(outcome)
    found = {"best": best} if best else {}
    return found | {role: r for role in NAMES for r in settled(outcome) if r.role == role}


def draw(outcome: Outcome) -> Picture | None:
    """One row a configuration, a small dot a seed; none where nothing was repeated."""
    rows = _rows(outcome)
    if not rows:
        return None
    goal, best = outcome.goals[0], champion(outcome)
    figure = Figure(figsize=(7.6, 0.75 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, repeated in enumerate(rows):
        colour = look.TRIAL if repeated is best else COLOURS.get(repeated.role, look.FAINT)
        _row(axes, -place, repeated, goal.figure, colour)
    look.bare(axes, keep=("bottom",))
    axes.set_yticks(
        [-place for place in range(len(rows))],
        [("best: " if r is best else "") + NAMES.get(r.role, r.role) for r in rows],
    )
    axes.tick_params("y", labelsize=9, labelcolor=look.INK)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlabel(wording.axis(goal.figure))
    axes.grid(axis="x")
    return Picture("seeds", "Settled over fresh seeds", _caption(rows), figure)


def _rows(outcome: Outcome) -> list[Repeated]:
    """Repeated trials from the best down, then the baselines."""
    goal, known = outcome.goals[0], settled(outcome)
    trials = [r for r in known if r.role not in NAMES]
    trials.sort(key=lambda r: r.mean(goal.figure), reverse=goal.maximize)
    return trials + [r for role in NAMES for r in known if r.role == role]


def _row(axes: Axes, height: float, repeated: Repeated, figure: str, colour: str) -> None:
    told = wording.mean_and_spread(figure, repeated)
    values = [wording.shown(figure, value) for value in repeated.values(figure)]
    mean, spread = (
        wording.shown(figure, x) for x in (repeated.mean(figure), repeated.spread(figure))
    )
    axes.plot([mean - spread, mean + spread], [height] * 2, color=colour, lw=2.2, alpha=0.55)
    axes.scatter(values, [height] * len(values), s=15, c=colour, ec=look.GROUND, lw=0.6, zorder=3)
    axes.scatter([mean], [height], s=60, c=colour, marker="s", ec=look.GROUND, lw=0.8, zorder=4)
    axes.annotate(
        told,
        (1.0, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
    )


def _caption(rows: list[Repeated]) -> str:
    counts = {len(r.records) for r in rows}
    if counts == {1}:
        return "One seed each: no spread is known, and no difference proven."
    many = "/".join(map(str, sorted(counts)))
    return (
        f"Made anew over {many} seeds: small dots are students, squares their means, bars one "
        "standard deviation."
    )
