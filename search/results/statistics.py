"""What a search's figures say, without pictures: ranking, verdicts, seconds saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stillhouse.search.core.formatting import difference as worded
from stillhouse.search.core.formatting import is_share, number, unit, value
from stillhouse.search.results.outcome import Outcome, Repeated, Trial, winner, winners

LEVEL = 0.05
"""A difference that seeds alone make more often than this is called a tie."""


@dataclass(frozen=True)
class Verdict:
    """How one configuration compares with another in one figure.

    ``difference`` is the first one's mean less the other's; ``error`` its standard error, not a
    number where seeds are too few to know it; ``text`` says it all in words.
    """

    difference: float
    tie: bool
    text: str
    error: float = math.nan


def verdict(best: Repeated, other: Repeated, figure: str) -> Verdict:
    """Compare the means of ``figure`` over the seeds of two configurations.

    Welch's t test: it pools the spreads of both without taking them for equal, since a student
    taught by labels alone often spreads more than a distilled one, and it knows how little two
    or three seeds say of a spread. A tie is what is not significant at 5 %, two-sided: published
    gains of distillation are often no larger than what another seed does.

    Raises:
        KeyError: a record of either lacks the figure.
    """
    difference = best.mean(figure) - other.mean(figure)
    told = worded(figure, difference)
    if min(len(best.records), len(other.records)) < 2:
        return Verdict(difference, False, f"{told}; one seed only: no spread known")
    error = math.hypot(*(r.spread(figure) / math.sqrt(len(r.records)) for r in (best, other)))
    if difference == 0.0:
        return Verdict(difference, True, f"a tie within seed noise ({told})", error)
    if error == 0.0:
        return Verdict(difference, False, f"{told} (no spread over seeds)", error)
    chance = _chance(best, other, figure)
    if chance >= LEVEL:
        return Verdict(difference, True, f"a tie within seed noise ({told})", error)
    sure = f"p = {chance:.2g}, {abs(difference) / error:.1f} standard errors"
    return Verdict(difference, False, f"{told} ({sure})", error)


def _chance(best: Repeated, other: Repeated, figure: str) -> float:
    """How often seeds alone would make a difference of means as large as this one."""
    from scipy.stats import ttest_ind_from_stats  # a second, which a check need not wait

    told = [(r.mean(figure), r.spread(figure), len(r.records)) for r in (best, other)]
    return float(ttest_ind_from_stats(*told[0], *told[1], equal_var=False).pvalue)


def ranking(outcome: Outcome) -> list[Trial]:
    """Trials that finished within all limits, best in the first goal first.

    Without that figure, or where it is not a number, a trial comes last; equals keep the order
    in which they were tried.
    """
    goal = outcome.goals[0]

    def place(trial: Trial) -> tuple[bool, float, int]:
        value = trial.figures.get(goal.figure, math.nan)
        if math.isnan(value):
            return True, 0.0, trial.number
        return False, -value if goal.maximize else value, trial.number

    return sorted((t for t in outcome.trials if t.state == "finished" and t.feasible), key=place)


def seconds_saved(outcome: Outcome) -> float:
    """Seconds that what was found in the library, instead of made, had once taken to make."""
    students = {list(t.keys.values())[-1] for t in outcome.trials if t.reused and t.keys}
    found = outcome.reused | students
    return sum(outcome.stages[key].seconds for key in found if key in outcome.stages)


def settled(outcome: Outcome) -> tuple[Repeated, ...]:
    """The repeated configurations of which the first goal's figure is known for every seed."""
    return tuple(r for r in outcome.repeats if r.records and _known(r, outcome.goals[0].figure))


def champion(outcome: Outcome) -> Repeated | None:
    """The best repeated trial, as :func:`winner`, among those of which the figure is known."""
    return winner(replace(outcome, repeats=settled(outcome)))


def champions(outcome: Outcome) -> dict[str, Repeated]:
    """Of each group the best repeated trial among those of which the figure is known."""
    return winners(replace(outcome, repeats=settled(outcome)))


def pareto(points: Sequence[Sequence[float]], maximize: Sequence[bool]) -> list[int]:
    """Indices of the points that no other point dominates, in their order.

    A point dominates another if it is as good in every coordinate and better in one. Equal
    points stand together; a point with a coordinate that is not a number is never in the front.
    """
    turned = [[-x if up else x for x, up in zip(p, maximize, strict=True)] for p in points]
    whole = [i for i, point in enumerate(turned) if not any(map(math.isnan, point))]
    front: list[int] = []
    # Who dominates a point comes before it in this order, and is in the front or dominated by it.
    for i in sorted(whole, key=lambda i: turned[i]):
        if not any(_dominates(turned[j], turned[i]) for j in front):
            front.append(i)
    return sorted(front)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether ``one`` is nowhere larger than ``other`` and somewhere smaller."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _known(repeated: Repeated, figure: str) -> bool:
    return all(math.isfinite(r.figures.get(figure, math.nan)) for r in repeated.records)


def mean_and_spread(figure: str, repeated: Repeated) -> str:
    """``91.39 ± 0.21 %``; without a spread where there is one seed only."""
    mean, spread = repeated.mean(figure), repeated.spread(figure)
    if len(repeated.records) < 2:
        return value(figure, mean)
    told = f"{100 * spread:.2f}" if is_share(figure) else f"{spread:.2g}"
    return f"{number(figure, mean)} ± {told}{unit(figure)}"
