"""Factorial: does distillation add to another technique, or give what that gives already?

Of every technique X two students are made, without a teacher and with one, and of the student as
written as well; each over the same seeds. The interaction of a seed is

    I(X) = acc(X + KD) - acc(X) - acc(KD) + acc(none)

and 0 where gains add up (Park et al. 2020; papers on orthogonality mean this). Beside it stands how
much students of different seeds differ (:mod:`stillhouse.search.evaluation.seed_variance`):
distillation works like bagging where it makes them agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stillhouse.search.evaluation.finalists import Contender, contender
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import Factorial
from stillhouse.search.experiment.variants import DISTILLED, PLAIN, variants, with_distillation
from stillhouse.search.results.outcome import Outcome

Verdict = Literal["orthogonal", "redundant", "synergistic", "undecided"]


def cells(experiment: Experiment) -> list[Contender]:
    """Every technique, and none, without and with distillation over the same seeds."""
    asked = experiment.factorial
    assert asked is not None
    seeds = range(asked.seeds)
    return [contender(role, each, {}, seeds, {}) for role, each in variants(experiment).items()]


# What came of it


@dataclass(frozen=True)
class Interaction:
    """What a technique and distillation do, alone and together; shares of the goal's figure.

    Every gain is against the student with neither, a value a seed. ``mean`` is that of the
    interaction, ``low`` and ``high`` the ends of its confidence interval (Student's t, paired).
    """

    technique: str
    alone: tuple[float, ...]
    taught: tuple[float, ...]
    both: tuple[float, ...]
    mean: float
    low: float
    high: float
    verdict: Verdict

    @property
    def values(self) -> tuple[float, ...]:
        """The interaction of every seed."""
        together = zip(self.both, self.alone, self.taught, strict=True)
        return tuple(both - alone - taught for both, alone, taught in together)


def interactions(outcome: Outcome) -> list[Interaction]:
    """One of each technique of which two students or more of every kind were made."""
    if not outcome.factorial:
        return []
    asked = Factorial.parse(outcome.factorial)
    figure = outcome.goals[0].figure
    sign = 1.0 if outcome.goals[0].maximize else -1.0
    known = {
        r.role: {
            seed: record.figures[figure]
            for seed, record in zip(r.seeds, r.records, strict=True)
            if figure in record.figures  # students without a teacher agree with none, say
        }
        for r in outcome.repeats
    }
    found = []
    for name in asked.techniques:
        roles = (PLAIN, DISTILLED, name, with_distillation(name))
        cells = [known.get(role, {}) for role in roles]
        seeds = sorted(set(cells[0]).intersection(*cells[1:]))
        if len(seeds) < 2:
            continue
        none, taught, alone, both = (tuple(sign * cell[s] for s in seeds) for cell in cells)
        gains = [_less(some, none) for some in (alone, taught, both)]
        found.append(_interaction(name, gains, asked))
    return found


def _less(some: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(some, other, strict=True))


def _interaction(name: str, gains: Sequence[tuple[float, ...]], asked: Factorial) -> Interaction:
    alone, taught, both = gains
    values = [b - a - t for b, a, t in zip(both, alone, taught, strict=True)]
    mean, low, high = interval(values, asked.confidence)
    return Interaction(name, alone, taught, both, mean, low, high, judged(low, high, asked.margin))


def interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """The mean of two values or more, and the ends of its confidence interval (Student's t)."""
    from scipy.stats import t  # a second, which a check need not wait

    mean, count = statistics.fmean(values), len(values)
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * statistics.stdev(values)
    half /= math.sqrt(count)
    return mean, mean - half, mean + half


def judged(low: float, high: float, margin: float) -> Verdict:
    """``orthogonal`` where the whole interval lies within the margin around 0, else ``synergistic``
    or ``redundant`` where it lies above or below 0, else ``undecided``."""
    if -margin < low and high < margin:
        return "orthogonal"
    if low > 0:
        return "synergistic"
    return "redundant" if high < 0 else "undecided"
