"""What the best configurations are held against: how each baseline is called and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stillhouse.search.report.core import mpl_style
from stillhouse.search.results.outcome import Outcome, SeedRuns
from stillhouse.search.results.statistics import best_seed_runs_by_group, complete_seed_runs


@dataclass(frozen=True)
class RoleStyle:
    """``label`` for a picture's row, ``description`` for a sentence; a colour and a marker of its
    own."""

    label: str
    description: str
    colour: str
    marker: str


BEST_STYLE = RoleStyle("best", "the best student", mpl_style.TRIAL, "s")
ROLE_STYLES: Mapping[str, RoleStyle] = {
    "assembled": RoleStyle(
        "assembled: before fine-tuning",
        "itself before fine-tuning, assembled once and not per seed",
        mpl_style.TRIAL,
        "o",
    ),
    "plain": RoleStyle(
        "plain: labels alone", "the plain student, taught by labels alone", mpl_style.PLAIN, "s"
    ),
    "direct": RoleStyle(
        "direct: the teacher alone",
        "the direct student, taught by the teacher without assistants",
        mpl_style.DIRECT,
        "s",
    ),
    "scratch": RoleStyle(
        "scratch: new weights, labels alone",
        "its architecture from scratch, by labels alone for the same images",
        mpl_style.SCRATCH,
        "X",
    ),
    "end to end": RoleStyle(
        "end to end: new weights, taught alike",
        "its architecture distilled end to end from random weights for the same images",
        mpl_style.SECOND,
        "D",
    ),
    "uniform": RoleStyle(
        "uniform: narrower teacher, taught alike",
        "the teacher's network narrowed uniformly to the same budget, for the same images",
        mpl_style.UNIFORM,
        "P",
    ),
}
"""In the order in which they are told."""


@dataclass(frozen=True)
class ComparisonGroup:
    """The best configuration, or that of one value of ``repeats.of_each``, and its company.

    ``name`` is empty where there is one group; ``runners_up`` the runners-up, ``baselines`` the
    baselines by role in the order of :data:`ROLE_STYLES`.
    """

    name: str
    best_runs: SeedRuns
    runners_up: tuple[SeedRuns, ...]
    baselines: Mapping[str, SeedRuns]


def comparison_groups(outcome: Outcome) -> list[ComparisonGroup]:
    """Every group in which a trial was repeated, as far as its figures are known."""
    complete = complete_seed_runs(outcome)
    return [
        _build_group(name, best_runs, [r for r in complete if r.group == name], outcome)
        for name, best_runs in best_seed_runs_by_group(outcome).items()
    ]


def _build_group(
    name: str, best_runs: SeedRuns, complete: Sequence[SeedRuns], outcome: Outcome
) -> ComparisonGroup:
    goal = outcome.goals[0]
    runners_up = [r for r in complete if r.is_trial and r is not best_runs]
    runners_up.sort(key=lambda r: r.mean(goal.figure), reverse=goal.maximize)
    baselines = {role: r for role in ROLE_STYLES for r in complete if r.role == role}
    return ComparisonGroup(group_label(name), best_runs, tuple(runners_up), baselines)


def group_label(group: str) -> str:
    """``parameters 67,000`` of ``assembled.budgets.parameters 67,000``."""
    path, space, value = group.partition(" ")
    return f"{path.rpartition('.')[2]}{space}{value}"


def present_roles(all_groups: Iterable[ComparisonGroup]) -> list[str]:
    """The baselines' roles that occur, in order."""
    roles = {role for group in all_groups for role in group.baselines}
    return [role for role in ROLE_STYLES if role in roles]
