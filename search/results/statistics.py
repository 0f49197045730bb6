"""What a search's figures say, without pictures: ranking, verdicts, seconds saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stillhouse.search.core.formatting import format_difference as worded
from stillhouse.search.core.formatting import format_number, format_value, is_share, unit
from stillhouse.search.results.outcome import (
    Outcome,
    SeedRuns,
    TrialResult,
    winner,
    winners_by_group,
)

SIGNIFICANCE_LEVEL = 0.05
"""A difference that seeds alone make more often than this is called a tie."""


@dataclass(frozen=True)
class Verdict:
    """How one configuration compares with another in one figure.

    ``difference`` is the first one's mean less the other's; ``standard_error`` its standard error,
    not a number where seeds are too few to know it; ``text`` says it all in words.
    """

    difference: float
    is_tie: bool
    text: str
    standard_error: float = math.nan


def verdict(first: SeedRuns, second: SeedRuns, metric: str) -> Verdict:
    """Compare the means of ``metric`` over the seeds of two configurations.

    Welch's t test: it pools the spreads of both without taking them for equal, since a student
    taught by labels alone often spreads more than a distilled one, and it knows how little two
    or three seeds say of a spread. A tie is what is not significant at 5 %, two-sided: published
    gains of distillation are often no larger than what another seed does.

    Raises:
        KeyError: a record of either lacks the figure.
    """
    difference = first.mean(metric) - second.mean(metric)
    difference_text = worded(metric, difference)
    if min(len(first.records), len(second.records)) < 2:
        return Verdict(difference, False, f"{difference_text}; one seed only: no spread known")
    standard_error = math.hypot(
        *(r.spread(metric) / math.sqrt(len(r.records)) for r in (first, second))
    )
    if difference == 0.0:
        return Verdict(
            difference, True, f"a tie within seed noise ({difference_text})", standard_error
        )
    if standard_error == 0.0:
        return Verdict(
            difference, False, f"{difference_text} (no spread over seeds)", standard_error
        )
    p_value = _p_value(first, second, metric)
    if p_value >= SIGNIFICANCE_LEVEL:
        return Verdict(
            difference, True, f"a tie within seed noise ({difference_text})", standard_error
        )
    evidence = f"p = {p_value:.2g}, {abs(difference) / standard_error:.1f} standard errors"
    return Verdict(difference, False, f"{difference_text} ({evidence})", standard_error)


def _p_value(first: SeedRuns, second: SeedRuns, metric: str) -> float:
    """How often seeds alone would make a difference of means as large as this one."""
    from scipy.stats import ttest_ind_from_stats  # a second, which a check need not wait

    moments = [(r.mean(metric), r.spread(metric), len(r.records)) for r in (first, second)]
    return float(ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue)


def ranking(outcome: Outcome) -> list[TrialResult]:
    """Trials that finished within all limits, best in the first goal first.

    Without that figure, or where it is not a number, a trial comes last; equals keep the order
    in which they were tried.
    """
    goal = outcome.goals[0]

    def sort_key(trial: TrialResult) -> tuple[bool, float, int]:
        value = trial.figures.get(goal.figure, math.nan)
        if math.isnan(value):
            return True, 0.0, trial.number
        return False, -value if goal.maximize else value, trial.number

    return sorted((t for t in outcome.trials if t.state == "finished" and t.feasible), key=sort_key)


def seconds_saved(outcome: Outcome) -> float:
    """Seconds that what was found in the library, instead of made, had once taken to make."""
    students = {
        list(t.stage_keys.values())[-1] for t in outcome.trials if t.reused and t.stage_keys
    }
    reused_keys = outcome.reused_keys | students
    return sum(outcome.records[key].seconds for key in reused_keys if key in outcome.records)


def complete_seed_runs(outcome: Outcome) -> tuple[SeedRuns, ...]:
    """The repeated configurations of which the first goal's figure is known for every seed."""
    return tuple(
        r for r in outcome.seed_runs if r.records and _has_metric(r, outcome.goals[0].figure)
    )


def best_seed_runs(outcome: Outcome) -> SeedRuns | None:
    """The best repeated trial, as :func:`winner`, among those of which the figure is known."""
    return winner(replace(outcome, seed_runs=complete_seed_runs(outcome)))


def best_seed_runs_by_group(outcome: Outcome) -> dict[str, SeedRuns]:
    """Of each group the best repeated trial among those of which the figure is known."""
    return winners_by_group(replace(outcome, seed_runs=complete_seed_runs(outcome)))


def pareto_indices(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """Indices of the points that no other point dominates, in their order.

    A point dominates another if it is as good in every coordinate and better in one. Equal
    points stand together; a point with a coordinate that is not a number is never in the front.
    """
    minimised = [[-x if up else x for x, up in zip(p, maximize, strict=True)] for p in points]
    complete = [i for i, point in enumerate(minimised) if not any(map(math.isnan, point))]
    front: list[int] = []
    # Who dominates a point comes before it in this order, and is in the front or dominated by it.
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
    """``91.39 ± 0.21 %``; without a spread where there is one seed only."""
    mean, spread = seed_runs.mean(metric), seed_runs.spread(metric)
    if len(seed_runs.records) < 2:
        return format_value(metric, mean)
    spread_text = f"{100 * spread:.2f}" if is_share(metric) else f"{spread:.2g}"
    return f"{format_number(metric, mean)} ± {spread_text}{unit(metric)}"
