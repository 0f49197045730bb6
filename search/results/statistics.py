"""Statistics of a search's results: ranking, comparisons over seeds, Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stillhouse.search.core.formatting import (
    format_difference,
    format_number,
    format_value,
    is_share,
    unit,
)
from stillhouse.search.results.outcome import (
    Outcome,
    SeedRuns,
    TrialResult,
    winner,
    winners_by_group,
)

SIGNIFICANCE_LEVEL = 0.05
"""A difference with a larger p value is a tie."""


@dataclass(frozen=True)
class Verdict:
    """The comparison of two configurations by one metric.

    ``difference`` is the first mean minus the second. ``standard_error`` is that of the difference,
    NaN with too few seeds. ``text`` is the comparison in words.
    """

    difference: float
    is_tie: bool
    text: str
    standard_error: float = math.nan


def verdict(first: SeedRuns, second: SeedRuns, metric: str) -> Verdict:
    """Compare the means of ``metric`` over the seeds of two configurations.

    Welch's t test, two-sided at 5 %; a difference that is not significant is a tie. The test
    does not assume equal spreads: a student without a teacher often varies more than a distilled
    one. It also accounts for the small number of seeds.

    Raises:
        KeyError: a record of either lacks the metric.
    """
    difference = first.mean(metric) - second.mean(metric)
    difference_text = format_difference(metric, difference)
    if min(len(first.records), len(second.records)) < 2:
        return Verdict(difference, False, f"{difference_text}; one seed only: no spread known")
    standard_error = math.hypot(
        *(r.spread(metric) / math.sqrt(len(r.records)) for r in (first, second))
    )
    if standard_error == 0.0 and difference != 0.0:
        text = f"{difference_text} (no spread over seeds)"
        return Verdict(difference, False, text, standard_error)
    p_value = 1.0 if difference == 0.0 else _p_value(first, second, metric)
    if p_value >= SIGNIFICANCE_LEVEL:
        text = f"a tie within seed noise ({difference_text})"
        return Verdict(difference, True, text, standard_error)
    evidence = f"p = {p_value:.2g}, {abs(difference) / standard_error:.1f} standard errors"
    return Verdict(difference, False, f"{difference_text} ({evidence})", standard_error)


def _p_value(first: SeedRuns, second: SeedRuns, metric: str) -> float:
    """The two-sided p value of Welch's t test."""
    from scipy.stats import ttest_ind_from_stats  # loading it takes a second

    moments = [(r.mean(metric), r.spread(metric), len(r.records)) for r in (first, second)]
    return float(ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue)


def ranking(outcome: Outcome) -> list[TrialResult]:
    """Trials that finished within all limits, the best in the first goal first.

    Trials whose goal is missing or NaN come last. The trial's number breaks ties.
    """
    goal = outcome.goals[0]

    def sort_key(trial: TrialResult) -> tuple[bool, float, int]:
        value = trial.figures.get(goal.figure, math.nan)
        if math.isnan(value):
            return True, 0.0, trial.number
        return False, -value if goal.maximize else value, trial.number

    return sorted((t for t in outcome.trials if t.state == "finished" and t.feasible), key=sort_key)


def seconds_saved(outcome: Outcome) -> float:
    """Seconds that it once took to build the artifacts that this search reused."""
    reused_keys = outcome.reused_keys | {t.student_key for t in outcome.trials if t.reused}
    return sum(outcome.records[key].seconds for key in reused_keys if key in outcome.records)


def complete_seed_runs(outcome: Outcome) -> tuple[SeedRuns, ...]:
    """The repeated configurations that have a finite first goal for every seed."""
    return tuple(
        r for r in outcome.seed_runs if r.records and _has_metric(r, outcome.goals[0].figure)
    )


def best_seed_runs(outcome: Outcome) -> SeedRuns | None:
    """The ``winner`` among ``complete_seed_runs``."""
    return winner(replace(outcome, seed_runs=complete_seed_runs(outcome)))


def best_seed_runs_by_group(outcome: Outcome) -> dict[str, SeedRuns]:
    """The ``winners_by_group`` among ``complete_seed_runs``."""
    return winners_by_group(replace(outcome, seed_runs=complete_seed_runs(outcome)))


def pareto_indices(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """Indices of the points that no other point dominates, in ascending order.

    A point dominates another if it is as good in every coordinate and better in one. Equal points
    do not dominate each other. A point with a NaN coordinate is never in the front.
    """
    minimised = [[-x if up else x for x, up in zip(p, maximize, strict=True)] for p in points]
    complete = [i for i, point in enumerate(minimised) if not any(map(math.isnan, point))]
    front: list[int] = []
    # A point that dominates another comes before it in this order.
    for i in sorted(complete, key=lambda i: minimised[i]):
        if not any(_dominates(minimised[j], minimised[i]) for j in front):
            front.append(i)
    return sorted(front)


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether ``first`` is nowhere larger than ``second`` and somewhere smaller."""
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def _has_metric(seed_runs: SeedRuns, metric: str) -> bool:
    return all(math.isfinite(r.figures.get(metric, math.nan)) for r in seed_runs.records)


def mean_and_spread(metric: str, seed_runs: SeedRuns) -> str:
    """``91.39 ± 0.21 %``; a single seed has no spread."""
    mean, spread = seed_runs.mean(metric), seed_runs.spread(metric)
    if len(seed_runs.records) < 2:
        return format_value(metric, mean)
    spread_text = f"{100 * spread:.2f}" if is_share(metric) else f"{spread:.2g}"
    return f"{format_number(metric, mean)} ± {spread_text}{unit(metric)}"
