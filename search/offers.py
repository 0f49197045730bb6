"""Offers: what a library's neighbourhoods would make under given budgets, nothing trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from methods.core.data.facts import facts
from search.assembly import rebuild
from search.experiment import Experiment, to_yaml
from search.library.store import Library
from search.recipe import Recipe
from search.settings import Limit
from search.stage import Stage
from search.stages.assemble import AssembleNetwork, Pool
from spaces.problem import ConfigError, Problem


@dataclass(frozen=True)
class Offer:
    """A plan: its place among the best, what it is made of, and what is known of it."""

    rank: int
    score: float
    costs: Mapping[str, float]
    chosen: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def offers(experiment: Experiment, budgets: Mapping[str, Limit], best: int) -> list[Offer]:
    """The best assemblies of what is in the library, under ``budgets`` and the file's own.

    Raises:
        ConfigError: the experiment assembles nothing, the library has no neighbourhoods for it,
            or no assembly keeps the budgets.
    """
    _, stage = _assembly(experiment)
    work = stage.work
    assert isinstance(work, AssembleNetwork)
    pool = _pool(experiment, stage)
    limits = {**work.budgets, **budgets}
    found = pool.plans(work.score, limits, best, work.apart, fewer=True)
    return [
        Offer(
            rank,
            plan.score,
            dict(plan.costs),
            tuple(artifact.record.name for artifact in pool.chosen(plan)),
        )
        for rank, plan in enumerate(found)
    ]


def write_offers(
    experiment: Experiment, budgets: Mapping[str, Limit], found: list[Offer], folder: Path
) -> list[Path]:
    """One experiment file for each offer, for ``launch``; returns their places."""
    name, _ = _assembly(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for offer in found:
        values: dict[str, Any] = {f"{name}.rank": offer.rank}
        for cost, limit in budgets.items():
            values[f"{name}.budgets.{cost}"] = limit.model_dump(exclude_none=True)
        told = experiment.settled(values, f"{experiment.name}-{offer.rank}")
        files.append(folder / f"{experiment.name}-{offer.rank}.yaml")
        files[-1].write_text(to_yaml(told), encoding="utf-8")
    return files


def _assembly(experiment: Experiment) -> tuple[str, Stage]:
    """The entry that assembles, and its stage."""
    recipe: Recipe = experiment.recipe()
    for name, entry in recipe.entries.items():
        if isinstance(entry.stage.work, AssembleNetwork):
            return name, entry.stage
    message = "no entry assembles: --budget needs one with do: assemble"
    raise ConfigError([Problem("stages", message)])


def _pool(experiment: Experiment, stage: Stage) -> Pool:
    library = Library(experiment.library)
    there = [parent for parent in stage.parents if library.has(parent.key)]
    if len(there) < 2 or there[0] is not stage.parents[0]:
        message = f"{experiment.library} has no neighbourhoods for it yet; launch it once"
        raise ConfigError([Problem("library", message)])
    made = [library.open(parent.key) for parent in there]
    return Pool(rebuild(made[0]), facts(stage.data).shape, made[1:])
