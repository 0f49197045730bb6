"""What the planner predicted of assemblies against what they reached."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.report.core.assembled import Assembled, assembled, distinct
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome

FEWEST = 3
"""Assemblies; fewer rank nothing."""
POOR = 0.5
"""Spearman's correlation below which the score is said to tell little."""
_INCHES = (7.6, 3.3)


@dataclass(frozen=True)
class Ranked:
    """Predicted scores and accuracies of the same assemblies, and how alike both rank them.

    The correlations are positive where a lower score goes with a higher accuracy, and NaN where
    all scores (or all accuracies) are equal.
    """

    predicted: tuple[float, ...]
    accuracies: tuple[float, ...]
    spearman: float
    kendall: float

    @property
    def told(self) -> str:
        """Both correlations in words."""
        if math.isnan(self.spearman):
            return "no rank correlation, since all are equal"
        return f"Spearman {self.spearman:.2f}, Kendall {self.kendall:.2f}"

    @property
    def poor(self) -> bool:
        """Whether the score ranks badly, or the wrong way round."""
        return not self.spearman >= POOR


def ranked(pairs: Sequence[tuple[float, float]]) -> Ranked | None:
    """Compare scores with accuracies; none where fewer than three of both are known."""
    from stillhouse.search.assembly.calibration import (
        agreement,  # scipy takes a second, which a check need not wait
    )

    known = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if len(known) < FEWEST:
        return None
    predicted, accuracies = zip(*known, strict=True)
    found = agreement(predicted, [1.0 - accuracy for accuracy in accuracies])
    return Ranked(predicted, accuracies, found.spearman, found.kendall)


def before(rows: Sequence[Assembled]) -> Ranked | None:
    """The predicted score and the accuracy as assembled."""
    return ranked([(r.figure("planned_score"), r.figure("val_accuracy")) for r in rows])


def after(rows: Sequence[Assembled]) -> Ranked | None:
    """The predicted score and the accuracy of the best student fine-tuned from each."""
    return ranked([(r.figure("planned_score"), r.reached) for r in rows])


def by_score(outcome: Outcome) -> dict[str, list[Assembled]]:
    """Assemblies by what their planner added up, the most frequent first: scores do not compare."""
    found: defaultdict[str, list[Assembled]] = defaultdict(list)
    for one in distinct(assembled(outcome)):
        if math.isfinite(one.figure("planned_score")):
            found[one.score].append(one)
    return dict(sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def draw(outcome: Outcome) -> Picture | None:
    """As assembled to the left, fine-tuned to the right; none with fewer than three assemblies."""
    groups = by_score(outcome)
    score, rows = next(iter(groups.items()), ("", []))
    untouched, tuned = before(rows), after(rows)
    if untouched is None:
        return None
    figure = Figure(figsize=_INCHES, layout="constrained")
    panels = figure.subplots(1, 2, squeeze=False)[0]
    _panel(panels[0], untouched, score, "as assembled")
    _untold(panels[0], rows)
    if tuned:
        _panel(panels[1], tuned, score, "fine-tuned")
        _students(panels[1], rows)
    else:
        panels[1].set_visible(False)
    caption = _caption(score, untouched, tuned)
    if not all(row.trials for row in rows):
        caption += " Rings are assemblies that no student went on from."
    if others := sum(map(len, groups.values())) - len(rows):
        caption += f" {others} assemblies by other scores are not shown."
    return Picture("prediction", "Predicted against reached", caption, figure)


def _caption(score: str, untouched: Ranked, tuned: Ranked | None) -> str:
    told = (
        f"{len(untouched.predicted)} assemblies by their added-up {score}, of which less is "
        f"better, against the validation accuracy as assembled: {untouched.told}"
    )
    if tuned:
        told += (
            f"; and against that of the best student fine-tuned from each of "
            f"{len(tuned.predicted)}: {tuned.told}. Pale dots are their other students"
        )
    told += ". Positive correlations mean that lower scores go with higher accuracies."
    return f"{told} {warning(untouched, tuned)}".strip()


def warning(untouched: Ranked, tuned: Ranked | None) -> str:
    """Words for a score that ranks badly; empty where it does not."""
    if untouched.poor:
        return "The planner's score tells little here: calibrate, or search `rank`."
    if tuned and tuned.poor:
        return (
            "The planner's score tells little of what fine-tuning reaches: search `rank`, and "
            "choose by students."
        )
    return ""


def _panel(axes: Axes, known: Ranked, score: str, which: str) -> None:
    figure = "val_accuracy"
    ys = [formatting.shown(figure, value) for value in known.accuracies]
    axes.scatter(known.predicted, ys, s=30, fc=look.TRIAL, ec=look.GROUND, lw=0.7, zorder=3)
    axes.set_title(f"{which}: {known.told}")
    axes.set_xlabel(f"predicted {score}")
    axes.set_ylabel(formatting.axis(figure))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.07)


def _untold(axes: Axes, rows: Sequence[Assembled]) -> None:
    """Hollow rings around assemblies that no student went on from."""
    places = [
        (row.figure("planned_score"), formatting.shown("val_accuracy", row.figure("val_accuracy")))
        for row in rows
        if not row.trials
    ]
    for x, y in places:
        axes.scatter([x], [y], s=30, fc=look.GROUND, ec=look.TRIAL, lw=0.9, zorder=4)


def _students(axes: Axes, rows: Sequence[Assembled]) -> None:
    """All students, behind the best of each assembly."""
    for row in rows:
        for student in row.students:
            accuracy = student.figures.get("val_accuracy", math.nan)
            if math.isfinite(accuracy) and accuracy != row.reached:
                y = formatting.shown("val_accuracy", accuracy)
                axes.scatter([row.figure("planned_score")], [y], s=18, c=look.TRIAL, alpha=0.3)
