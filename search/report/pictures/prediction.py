"""The predicted scores of assemblies against their accuracies."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stillhouse.search.core import formatting
from stillhouse.search.report.core import mpl_style
from stillhouse.search.report.core.assembled import AssemblyResult, find_assemblies, merge_equal
from stillhouse.search.report.core.mpl_style import Picture
from stillhouse.search.results.outcome import Outcome

MIN_ASSEMBLIES = 3
"""Assemblies; fewer rank nothing."""
POOR_CORRELATION = 0.5
"""Spearman's correlation below which the score is said to tell little."""
_INCHES = (7.6, 3.3)


@dataclass(frozen=True)
class RankAgreement:
    """Predicted scores and accuracies of the same assemblies, and how alike both rank them.

    The correlations are positive where a lower score goes with a higher accuracy, and NaN where
    all scores (or all accuracies) are equal.
    """

    predicted: tuple[float, ...]
    accuracies: tuple[float, ...]
    spearman: float
    kendall: float

    @property
    def correlation_text(self) -> str:
        """Both correlations in words."""
        if math.isnan(self.spearman):
            return "no rank correlation, since all are equal"
        return f"Spearman {self.spearman:.2f}, Kendall {self.kendall:.2f}"

    @property
    def is_poor(self) -> bool:
        """Whether the score ranks badly, or the wrong way round."""
        return not self.spearman >= POOR_CORRELATION


def rank_agreement(pairs: Sequence[tuple[float, float]]) -> RankAgreement | None:
    """Compare scores with accuracies; none where fewer than three of both are known."""
    from stillhouse.search.assembly.calibration import (
        agreement,  # scipy takes a second, which a check need not wait
    )

    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    if len(finite) < MIN_ASSEMBLIES:
        return None
    predicted, accuracies = zip(*finite, strict=True)
    correlations = agreement(predicted, [1.0 - accuracy for accuracy in accuracies])
    return RankAgreement(predicted, accuracies, correlations.spearman, correlations.kendall)


def agreement_assembled(rows: Sequence[AssemblyResult]) -> RankAgreement | None:
    """The predicted score and the accuracy as assembled."""
    return rank_agreement([(r.metric("planned_score"), r.metric("val_accuracy")) for r in rows])


def agreement_tuned(rows: Sequence[AssemblyResult]) -> RankAgreement | None:
    """The predicted score and the accuracy of the best student fine-tuned from each."""
    return rank_agreement([(r.metric("planned_score"), r.best_accuracy) for r in rows])


def assemblies_by_score(outcome: Outcome) -> dict[str, list[AssemblyResult]]:
    """Assemblies by what their planner added up, the most frequent first: scores do not compare."""
    by_name: defaultdict[str, list[AssemblyResult]] = defaultdict(list)
    for assembly in merge_equal(find_assemblies(outcome)):
        if math.isfinite(assembly.metric("planned_score")):
            by_name[assembly.score].append(assembly)
    return dict(sorted(by_name.items(), key=lambda pair: (-len(pair[1]), pair[0])))


def draw(outcome: Outcome) -> Picture | None:
    """As assembled to the left, fine-tuned to the right; none with fewer than three assemblies."""
    groups = assemblies_by_score(outcome)
    score, rows = next(iter(groups.items()), ("", []))
    assembled_agreement, tuned_agreement = agreement_assembled(rows), agreement_tuned(rows)
    if assembled_agreement is None:
        return None
    figure = Figure(figsize=_INCHES, layout="constrained")
    panels = figure.subplots(1, 2, squeeze=False)[0]
    _draw_panel(panels[0], assembled_agreement, score, "as assembled")
    _draw_unused(panels[0], rows)
    if tuned_agreement:
        _draw_panel(panels[1], tuned_agreement, score, "fine-tuned")
        _draw_students(panels[1], rows)
    else:
        panels[1].set_visible(False)
    caption = _caption(score, assembled_agreement, tuned_agreement)
    if not all(row.trials for row in rows):
        caption += " Rings are assemblies that no student went on from."
    if others := sum(map(len, groups.values())) - len(rows):
        caption += f" {others} assemblies by other scores are not shown."
    return Picture("prediction", "Predicted against reached", caption, figure)


def _caption(
    score: str, assembled_agreement: RankAgreement, tuned_agreement: RankAgreement | None
) -> str:
    caption = (
        f"{len(assembled_agreement.predicted)} assemblies by their added-up {score}, of "
        "which less is "
        "better, against the validation accuracy as assembled: "
        f"{assembled_agreement.correlation_text}"
    )
    if tuned_agreement:
        caption += (
            f"; and against that of the best student fine-tuned from each of "
            f"{len(tuned_agreement.predicted)}: {tuned_agreement.correlation_text}. Pale "
            "dots are their other students"
        )
    caption += ". Positive correlations mean that lower scores go with higher accuracies."
    return f"{caption} {poor_score_advice(assembled_agreement, tuned_agreement)}".strip()


def poor_score_advice(
    assembled_agreement: RankAgreement, tuned_agreement: RankAgreement | None
) -> str:
    """Words for a score that ranks badly; empty where it does not."""
    if assembled_agreement.is_poor:
        return "The planner's score tells little here: calibrate, or search `rank`."
    if tuned_agreement and tuned_agreement.is_poor:
        return (
            "The planner's score tells little of what fine-tuning reaches: search `rank`, and "
            "choose by students."
        )
    return ""


def _draw_panel(axes: Axes, agreement: RankAgreement, score: str, stage_name: str) -> None:
    metric = "val_accuracy"
    ys = [formatting.plot_value(metric, value) for value in agreement.accuracies]
    axes.scatter(
        agreement.predicted, ys, s=30, fc=mpl_style.TRIAL, ec=mpl_style.BACKGROUND, lw=0.7, zorder=3
    )
    axes.set_title(f"{stage_name}: {agreement.correlation_text}")
    axes.set_xlabel(f"predicted {score}")
    axes.set_ylabel(formatting.axis_label(metric))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.margins(0.07)


def _draw_unused(axes: Axes, rows: Sequence[AssemblyResult]) -> None:
    """Hollow rings around assemblies that no student went on from."""
    points = [
        (
            row.metric("planned_score"),
            formatting.plot_value("val_accuracy", row.metric("val_accuracy")),
        )
        for row in rows
        if not row.trials
    ]
    for x, y in points:
        axes.scatter([x], [y], s=30, fc=mpl_style.BACKGROUND, ec=mpl_style.TRIAL, lw=0.9, zorder=4)


def _draw_students(axes: Axes, rows: Sequence[AssemblyResult]) -> None:
    """All students, behind the best of each assembly."""
    for row in rows:
        for student in row.students:
            accuracy = student.figures.get("val_accuracy", math.nan)
            if math.isfinite(accuracy) and accuracy != row.best_accuracy:
                y = formatting.plot_value("val_accuracy", accuracy)
                axes.scatter([row.metric("planned_score")], [y], s=18, c=mpl_style.TRIAL, alpha=0.3)
