"""Settling a search: the best few again over fresh seeds.

The seeds a configuration was chosen by are not among those it is judged by: the best of many
noisy trials is partly lucky, and its own figure says too much of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stillhouse.search.artifacts.store import Library
from stillhouse.search.experiment.experiment import Experiment
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.results.outcome import Repeated, Trial, measured, with_measured
from stillhouse.spaces.config.domains import Choice


@dataclass(frozen=True)
class Contender:
    """One configuration to be made over several seeds.

    ``values`` are those searched; ``measured`` what its trial measured of the network, which is
    the same for every seed; ``group`` and ``also`` as in :class:`Repeated`.
    """

    role: str
    values: Mapping[str, Any]
    recipes: Mapping[int, Recipe]
    measured: Mapping[str, float]
    group: str = ""
    also: tuple[str, ...] = ()

    @property
    def keys(self) -> set[str]:
        """Those of its students."""
        return {recipe.student.key for recipe in self.recipes.values()}

    def repeated(self, library: Library) -> Repeated:
        """Its records; seeds that failed are left out."""
        found = {s: library.record(recipe.student.key) for s, recipe in self.recipes.items()}
        kept = {s: with_measured(r, self.measured) for s, r in found.items() if r is not None}
        return Repeated(self.role, tuple(kept), tuple(kept.values()), self.group, self.also)


def contenders(experiment: Experiment, ranked: Sequence[Trial]) -> list[Contender]:
    """The best trials over fresh seeds; with ``repeats.top: 0`` the best one as it is.

    With ``repeats.of_each`` the best of each of its values; those that no trial has are absent.
    """
    repeats = experiment.run.repeats
    first = first_seed(experiment)
    seeds = range(first, first + repeats.seeds) if repeats.top else range(1)
    return [
        contender(f"trial {trial.number}", experiment, trial.values, seeds, trial.figures, group)
        for group, trials in _grouped(experiment, ranked).items()
        for trial in _distinct(trials)[: max(repeats.top, 1)]
    ]


def first_seed(experiment: Experiment) -> int:
    """The first seed over which configurations are repeated.

    The trials of a search have seed 0. Where nothing is searched nothing was chosen by it, and
    the first seed is as fresh as any.
    """
    said = experiment.run.repeats.first_seed
    return said if said is not None else int(bool(experiment.search))


def contender(
    role: str,
    experiment: Experiment,
    values: Mapping[str, Any],
    seeds: Iterable[int],
    figures: Mapping[str, float],
    group: str = "",
) -> Contender:
    """The student of ``values`` over ``seeds``, labelled with its role and seed."""
    recipes = {}
    for seed in seeds:
        recipe = experiment.recipe(values, reseed=seed)
        told = ", ".join(filter(None, (role, group, f"seed {seed}")))
        label = f"{recipe.student.label} ({told})"
        recipes[seed] = replace(recipe, student=replace(recipe.student, label=label))
    return Contender(role, values, recipes, measured(figures), group)


def _grouped(experiment: Experiment, ranked: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Trials by their value of ``repeats.of_each``, in the order in which the search names them."""
    path = experiment.run.repeats.of_each
    if path is None or path not in experiment.search:
        return {"": list(ranked)}
    domain = experiment.search[path]
    options = domain.values if isinstance(domain, Choice) else domain.grid(1)
    found: dict[str, list[Trial]] = {_told(path, option): [] for option in options}
    for trial in ranked:
        if path in trial.values:
            found.setdefault(_told(path, trial.values[path]), []).append(trial)
    return {group: trials for group, trials in found.items() if trials}


def _told(path: str, value: Any) -> str:
    """``assembled.budgets.parameters 67,000``."""
    if isinstance(value, Mapping):
        return f"{path} {', '.join(f'{key} {inner}' for key, inner in value.items())}"
    if isinstance(value, tuple | list):
        return f"{path} {', '.join(map(str, value)) or 'none'}"
    number = isinstance(value, int) and not isinstance(value, bool)
    return f"{path} {value:,}" if number else f"{path} {value}"


def _distinct(ranked: Sequence[Trial]) -> list[Trial]:
    """One trial for each student: samplers propose the same discrete choice more than once."""
    seen: dict[tuple[str, ...], Trial] = {}
    for trial in ranked:
        seen.setdefault(tuple(trial.keys.values()), trial)
    return list(seen.values())
