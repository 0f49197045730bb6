"""What the best configurations are held against: how each baseline is called and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stillhouse.search.report.core import mpl_style as look
from stillhouse.search.results.outcome import Outcome, Repeated
from stillhouse.search.results.statistics import champions, settled


@dataclass(frozen=True)
class Role:
    """``short`` for a picture's row, ``whole`` for a sentence; a colour and a marker of its own."""

    short: str
    whole: str
    colour: str
    marker: str


BEST = Role("best", "the best student", look.TRIAL, "s")
ROLES: Mapping[str, Role] = {
    "assembled": Role(
        "assembled: before fine-tuning",
        "itself before fine-tuning, assembled once and not per seed",
        look.TRIAL,
        "o",
    ),
    "plain": Role(
        "plain: labels alone", "the plain student, taught by labels alone", look.PLAIN, "s"
    ),
    "direct": Role(
        "direct: the teacher alone",
        "the direct student, taught by the teacher without assistants",
        look.DIRECT,
        "s",
    ),
    "scratch": Role(
        "scratch: new weights, labels alone",
        "its architecture from scratch, by labels alone for the same images",
        look.SCRATCH,
        "X",
    ),
    "end to end": Role(
        "end to end: new weights, taught alike",
        "its architecture distilled end to end from random weights for the same images",
        look.SECOND,
        "D",
    ),
    "uniform": Role(
        "uniform: narrower teacher, taught alike",
        "the teacher's network narrowed uniformly to the same budget, for the same images",
        look.UNIFORM,
        "P",
    ),
}
"""In the order in which they are told."""


@dataclass(frozen=True)
class Group:
    """The best configuration, or that of one value of ``repeats.of_each``, and its company.

    ``name`` is empty where there is one group; ``others`` the runners-up, ``against`` the
    baselines by role in the order of :data:`ROLES`.
    """

    name: str
    best: Repeated
    others: tuple[Repeated, ...]
    against: Mapping[str, Repeated]


def groups(outcome: Outcome) -> list[Group]:
    """Every group in which a trial was repeated, as far as its figures are known."""
    known = settled(outcome)
    return [
        _group(name, best, [r for r in known if r.group == name], outcome)
        for name, best in champions(outcome).items()
    ]


def _group(name: str, best: Repeated, known: Sequence[Repeated], outcome: Outcome) -> Group:
    goal = outcome.goals[0]
    others = [r for r in known if r.tried and r is not best]
    others.sort(key=lambda r: r.mean(goal.figure), reverse=goal.maximize)
    against = {role: r for role in ROLES for r in known if r.role == role}
    return Group(brief(name), best, tuple(others), against)


def brief(group: str) -> str:
    """``parameters 67,000`` of ``assembled.budgets.parameters 67,000``."""
    path, space, value = group.partition(" ")
    return f"{path.rpartition('.')[2]}{space}{value}"


def known_roles(found: Iterable[Group]) -> list[str]:
    """The baselines' roles that occur, in order."""
    there = {role for group in found for role in group.against}
    return [role for role in ROLES if role in there]
