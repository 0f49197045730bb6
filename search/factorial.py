"""Factorial: does distillation add to another technique, or give what that gives already?

Of every technique X two students are made, without a teacher and with one, and of the student as
written as well; each over the same seeds. The interaction of a seed is

    I(X) = acc(X + KD) - acc(X) - acc(KD) + acc(none)

and 0 where gains add up (Park et al. 2020; papers on orthogonality mean this). Beside it stands how
much students of different seeds differ (:mod:`search.variance`): distillation works like bagging
where it makes them agree.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from search.baselines import labels_alone
from search.experiment import Experiment
from search.outcome import Outcome
from search.settings import Factorial
from search.settle import Contender, contender
from search.space import parts
from search.stages.train import Train
from spaces.problem import ConfigError, Problem

Verdict = Literal["orthogonal", "redundant", "synergistic", "undecided"]

PLAIN, DISTILLED = "plain", "trial 0"
"""The roles of the student as written, taught by labels alone and as it says."""


def with_distillation(technique: str) -> str:
    """The role of a technique's student that has a teacher; its name alone is that without."""
    return f"{technique} + teacher" if technique else DISTILLED


def cells(experiment: Experiment) -> list[Contender]:
    """Every technique, and none, without and with distillation over the same seeds."""
    asked = experiment.factorial
    assert asked is not None
    seeds = range(asked.seeds)
    return [contender(role, each, {}, seeds, {}) for role, each in variants(experiment).items()]


def variants(experiment: Experiment) -> dict[str, Experiment]:
    """Role -> the experiment of its student: every technique, and none, with and without teachers.

    Raises:
        ConfigError: a technique names no setting.
    """
    asked = experiment.factorial
    assert asked is not None
    none: dict[str, dict[str, Any]] = {"": {}}
    found = {}
    for name, changes in (none | dict(asked.techniques)).items():
        taught = _with(experiment, changes)
        found[with_distillation(name)] = taught
        found[name or PLAIN] = _without_teachers(taught)
    return found


def _with(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """The experiment with ``changes`` in place."""
    stages, data = experiment.with_values(changes)
    return replace(experiment, stages=stages, data=data)


def _without_teachers(experiment: Experiment) -> Experiment:
    entry = experiment.stages[experiment.final]
    alone = {**experiment.stages, experiment.final: {**entry, **labels_alone(entry)}}
    return replace(experiment, stages=alone)


def check_factorial(experiment: Experiment) -> Iterator[Problem]:
    """What of a factorial cannot be."""
    asked = experiment.factorial
    if asked is None:
        return
    if experiment.search:
        message = "has no place beside search; give the values, or leave it out"
        yield Problem("factorial", message)
    entry = experiment.entries.get(experiment.final)
    if not isinstance(entry, Train) or not entry.teachers or entry.objective is None:
        message = f"asks whether teachers help, and {experiment.final!r} is not taught by any"
        yield Problem("factorial", message)
        return
    from search.report.roles import ROLES  # draws as well, which no other check need load

    for name, changes in asked.techniques.items():
        if name in ROLES:
            message = "is how a baseline is called; choose another name"
            yield Problem(f"factorial.techniques.{name}", message)
        try:
            _check_paths(changes, experiment)
            taught = _with(experiment, changes)
            taught.recipe()
            _without_teachers(taught).recipe()
        except ConfigError as error:
            yield from error.under(f"factorial.techniques.{name}").problems


def _check_paths(changes: Mapping[str, Any], experiment: Experiment) -> None:
    """Every change is of a setting of an entry, or of the data.

    Raises:
        ConfigError: one is not.
    """
    places = ("data", *experiment.stages)
    wrong = [path for path in changes if parts(path)[0] not in places or len(parts(path)) < 2]
    if wrong:
        message = f"names no setting; needs a path like {experiment.final}.training.lr"
        raise ConfigError([Problem(path, message) for path in wrong])


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
