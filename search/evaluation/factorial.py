"""Factorial: whether distillation adds to another technique or is redundant to it.

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

from stillhouse.search.evaluation.finalists import Finalist, build_finalist
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.schema import FactorialSettings
from stillhouse.search.experiment.variants import (
    DISTILLED,
    PLAIN,
    distilled_role,
    factorial_variants,
)
from stillhouse.search.results.outcome import Outcome

InteractionVerdict = Literal["orthogonal", "redundant", "synergistic", "undecided"]


def factorial_cells(experiment: Experiment) -> list[Finalist]:
    """Every technique, and none, without and with distillation over the same seeds."""
    settings = experiment.factorial
    assert settings is not None
    seeds = range(settings.seeds)
    return [
        build_finalist(role, variant, {}, seeds, {})
        for role, variant in factorial_variants(experiment).items()
    ]


# Effects


@dataclass(frozen=True)
class Interaction:
    """The effects of a technique and distillation, alone and together, as shares of the goal.

    Every gain is against the student with neither, a value a seed. ``mean`` is that of the
    interaction, ``low`` and ``high`` the ends of its confidence interval (Student's t, paired).
    """

    technique: str
    technique_gains: tuple[float, ...]
    distillation_gains: tuple[float, ...]
    combined_gains: tuple[float, ...]
    mean: float
    low: float
    high: float
    verdict: InteractionVerdict

    @property
    def values(self) -> tuple[float, ...]:
        """The interaction of every seed."""
        gains_by_seed = zip(
            self.combined_gains, self.technique_gains, self.distillation_gains, strict=True
        )
        return tuple(
            combined - technique - distillation
            for combined, technique, distillation in gains_by_seed
        )


def interactions(outcome: Outcome) -> list[Interaction]:
    """One of each technique of which two students or more of every kind were made."""
    if not outcome.factorial:
        return []
    settings = FactorialSettings.parse(outcome.factorial)
    metric = outcome.goals[0].figure
    sign = 1.0 if outcome.goals[0].maximize else -1.0
    values_by_role = {
        student_runs.role: {
            seed: record.figures[metric]
            for seed, record in zip(student_runs.seeds, student_runs.records, strict=True)
            if metric in record.figures  # students without a teacher agree with none, say
        }
        for student_runs in outcome.seed_runs
    }
    results = []
    for name in settings.techniques:
        roles = (PLAIN, DISTILLED, name, distilled_role(name))
        seed_values = [values_by_role.get(role, {}) for role in roles]
        seeds = sorted(set(seed_values[0]).intersection(*seed_values[1:]))
        if len(seeds) < 2:
            continue
        plain_values, distilled_values, technique_values, combined_values = (
            tuple(sign * values_by_seed[common_seed] for common_seed in seeds)
            for values_by_seed in seed_values
        )
        gains = [
            _differences(values, plain_values)
            for values in (technique_values, distilled_values, combined_values)
        ]
        results.append(_interaction(name, gains, settings))
    return results


def _differences(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(values, baseline, strict=True))


def _interaction(
    name: str, gains: Sequence[tuple[float, ...]], settings: FactorialSettings
) -> Interaction:
    technique_gains, distillation_gains, combined_gains = gains
    values = [
        b - a - distillation
        for b, a, distillation in zip(
            combined_gains, technique_gains, distillation_gains, strict=True
        )
    ]
    mean, low, high = confidence_interval(values, settings.confidence)
    return Interaction(
        name,
        technique_gains,
        distillation_gains,
        combined_gains,
        mean,
        low,
        high,
        classify_interaction(low, high, settings.margin),
    )


def confidence_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """The mean of two values or more, and the ends of its confidence interval (Student's t)."""
    from scipy.stats import t  # a second, which a check need not wait

    mean, count = statistics.fmean(values), len(values)
    half_width = float(t.ppf((1 + confidence) / 2, count - 1)) * statistics.stdev(values)
    half_width /= math.sqrt(count)
    return mean, mean - half_width, mean + half_width


def classify_interaction(low: float, high: float, margin: float) -> InteractionVerdict:
    """``orthogonal`` where the whole interval lies within the margin around 0, else ``synergistic``
    or ``redundant`` where it lies above or below 0, else ``undecided``."""
    if -margin < low and high < margin:
        return "orthogonal"
    if low > 0:
        return "synergistic"
    return "redundant" if high < 0 else "undecided"
