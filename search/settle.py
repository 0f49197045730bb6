"""Settling a search: the best few again over fresh seeds, beside honest baselines.

The seeds a configuration was chosen by are not among those it is judged by: the best of many
noisy trials is partly lucky, and its own figure says too much of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search.experiment import Experiment
from search.library.store import Library
from search.outcome import Repeated, Trial, measured, with_measured
from search.recipe import Recipe


@dataclass(frozen=True)
class Contender:
    """One configuration to be made over several seeds.

    ``values`` are those searched; ``measured`` what its trial measured of the network, which is
    the same for every seed.
    """

    role: str
    values: Mapping[str, Any]
    recipes: Mapping[int, Recipe]
    measured: Mapping[str, float]

    def repeated(self, library: Library) -> Repeated:
        """Its records; seeds that failed are left out."""
        found = {s: library.record(recipe.student.key) for s, recipe in self.recipes.items()}
        kept = {s: with_measured(r, self.measured) for s, r in found.items() if r is not None}
        return Repeated(self.role, tuple(kept), tuple(kept.values()))


def contenders(experiment: Experiment, ranked: Sequence[Trial]) -> list[Contender]:
    """The best trials over fresh seeds; with ``repeats.top: 0`` the best one as it is."""
    repeats = experiment.run.repeats
    # Where nothing was searched nothing was chosen, and the first seed is as fresh as any.
    first = 1 if experiment.search else 0
    seeds = range(first, first + repeats.seeds) if repeats.top else range(1)
    return [
        _contender(f"trial {trial.number}", experiment, trial.values, seeds, trial.figures)
        for trial in _distinct(ranked)[: max(repeats.top, 1)]
    ]


def baselines(experiment: Experiment, best: Contender) -> list[Contender]:
    """What the best configuration is held against, over the same seeds.

    ``plain``: the same student and training, labels alone. ``direct``: the same student and
    objective, taught by the teacher at the root instead of by assistants. There are none for a
    student that has no teacher.
    """
    entry = experiment.recipe(best.values).entries[experiment.final]
    roots = [s.label for s in entry.stage.lineage() if not s.parents and s is not entry.stage]
    stages, data = experiment.with_values(best.values)
    final = stages[experiment.final]
    objective = final.get("objective")
    if not (roots and objective):
        return []
    labels = {"cross_entropy": {**(objective.get("cross_entropy") or {}), "weight": 1.0}}
    changed = {
        "plain": {**final, "objective": labels, "teachers": []},
        "direct": {**final, "teachers": roots},
    }
    found = []
    for role, entry_as_changed in changed.items():
        whole = {**stages, experiment.final: entry_as_changed}
        other = replace(experiment, stages=whole, data=data, search={})
        found.append(_contender(role, other, {}, best.recipes, best.measured))
    return found


def _contender(
    role: str,
    experiment: Experiment,
    values: Mapping[str, Any],
    seeds: Iterable[int],
    figures: Mapping[str, float],
) -> Contender:
    recipes = {}
    for seed in seeds:
        recipe = experiment.recipe(values, reseed=seed)
        label = f"{recipe.student.label} ({role}, seed {seed})"
        recipes[seed] = replace(recipe, student=replace(recipe.student, label=label))
    return Contender(role, values, recipes, measured(figures))


def _distinct(ranked: Sequence[Trial]) -> list[Trial]:
    """One trial for each student: samplers propose the same discrete choice more than once."""
    seen: dict[tuple[str, ...], Trial] = {}
    for trial in ranked:
        seen.setdefault(tuple(trial.keys.values()), trial)
    return list(seen.values())
