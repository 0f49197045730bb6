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
from search.outcome import Repeated, Trial
from search.recipe import Recipe


@dataclass(frozen=True)
class Contender:
    """One configuration to be made over several seeds. ``values`` are those searched."""

    role: str
    values: Mapping[str, Any]
    recipes: Mapping[int, Recipe]

    def repeated(self, library: Library) -> Repeated:
        """Its records; seeds that failed are left out."""
        found = {s: library.record(recipe.student.key) for s, recipe in self.recipes.items()}
        kept = {seed: record for seed, record in found.items() if record is not None}
        return Repeated(self.role, tuple(kept), tuple(kept.values()))


def contenders(experiment: Experiment, ranked: Sequence[Trial]) -> list[Contender]:
    """The best trials and the baselines of the best one, all over the same fresh seeds."""
    repeats = experiment.run.repeats
    if not ranked:
        return []
    # Where nothing was searched nothing was chosen, and the first seed is as fresh as any.
    first = 1 if experiment.search else 0
    seeds = range(first, first + repeats.seeds) if repeats.top else range(1)
    best = [
        _contender(f"trial {t.number}", experiment, t.values, seeds)
        for t in _distinct(ranked)[: max(repeats.top, 1)]
    ]
    return best + (
        baselines(experiment, ranked[0].values, seeds) if experiment.run.baselines else []
    )


def baselines(
    experiment: Experiment, values: Mapping[str, Any], seeds: Iterable[int]
) -> list[Contender]:
    """``plain``: the same student and training, labels alone. ``direct``: the same student and
    objective, taught by the teacher at the root instead of by assistants.

    There are none for a student that has no teacher.
    """
    entry = experiment.recipe(values).entries[experiment.final]
    roots = [s.label for s in entry.stage.lineage() if not s.parents and s is not entry.stage]
    stages, _ = experiment.with_values(values)
    final = stages[experiment.final]
    if not roots or final.get("do", "train") != "train":
        return []
    labels = final["objective"].get("cross_entropy") or {}
    labels_only = {"cross_entropy": {**labels, "weight": 1.0}}
    plain = {**final, "objective": labels_only, "teachers": []}
    direct = {**final, "teachers": roots}
    return [
        replace(
            _contender(role, _with_final(experiment, stages, changed), {}, seeds), values=values
        )
        for role, changed in {"plain": plain, "direct": direct}.items()
    ]


def _with_final(
    experiment: Experiment, stages: Mapping[str, Any], final: Mapping[str, Any]
) -> Experiment:
    return replace(experiment, stages={**stages, experiment.final: final}, search={})


def _contender(
    role: str, experiment: Experiment, values: Mapping[str, Any], seeds: Iterable[int]
) -> Contender:
    recipes = {}
    for seed in seeds:
        recipe = experiment.recipe(values, reseed=seed)
        label = f"{recipe.student.label} ({role}, seed {seed})"
        recipes[seed] = replace(recipe, student=replace(recipe.student, label=label))
    return Contender(role, values, recipes)


def _distinct(ranked: Sequence[Trial]) -> list[Trial]:
    """One trial for each student: samplers propose the same discrete choice more than once."""
    seen: dict[tuple[str, ...], Trial] = {}
    for trial in ranked:
        seen.setdefault(tuple(trial.keys.values()), trial)
    return list(seen.values())
