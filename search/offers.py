"""Offers: what a library's neighbourhoods would make under given budgets, nothing trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from methods.core.data.facts import facts
from search.assembly import rebuild
from search.calibration import FEWEST, Calibrated, calibrated
from search.experiment import Experiment, to_yaml
from search.library.store import Library
from search.planner import Edge
from search.pool import Pool, piece_of
from search.recipe import Recipe
from search.settings import Limit
from search.stage import Stage
from search.stages.assemble import AssembleNetwork
from spaces.problem import ConfigError, Problem


@dataclass(frozen=True)
class Offer:
    """A plan: its place among the best, what it is made of, and what is known of it."""

    rank: int
    score: float
    costs: Mapping[str, float]
    chosen: tuple[str, ...]
    measured: float | None
    """Accuracy lost as assembled, if that was done before."""

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Offers:
    """Plans in order, and how far what was assembled before bears the planner out.

    ``calibration`` is none where fewer than three assemblies of these parts are in the library;
    else the scores are corrected by them, to accuracy lost (DONNA, Moons et al. 2021).
    """

    found: tuple[Offer, ...]
    assembled: int
    """How many assemblies of these parts are in the library."""
    calibration: Calibrated | None


def offers(experiment: Experiment, budgets: Mapping[str, Limit], best: int) -> Offers:
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
    edges = pool.edges(work.score)
    known = pool.measured(Library(experiment.library).records())
    calibration = calibrated(edges, known, kind=_candidate) if len(known) >= FEWEST else None
    if calibration:
        edges = list(calibration.edges)
    found = pool.plans(edges, limits, best, work.apart, fewer=True)
    offered = (
        Offer(
            rank,
            plan.score + (calibration.fixed if calibration else 0.0),
            dict(plan.costs),
            tuple(piece_of(artifact).label for artifact in pool.chosen(plan)),
            known.get(plan.edges),
        )
        for rank, plan in enumerate(found)
    )
    return Offers(tuple(offered), len(known), calibration)


def write_offers(
    experiment: Experiment, budgets: Mapping[str, Limit], found: Sequence[Offer], folder: Path
) -> list[Path]:
    """One experiment file for each offer, for ``launch``; returns their places."""
    name, _ = _assembly(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for offer in found:
        values: dict[str, Any] = {f"{name}.chosen": list(offer.chosen)}
        for cost, limit in budgets.items():
            values[f"{name}.budgets.{cost}"] = limit.model_dump(exclude_none=True)
        told = experiment.settled(values, f"{experiment.name}-{offer.rank}")
        files.append(folder / f"{experiment.name}-{offer.rank}.yaml")
        files[-1].write_text(to_yaml(told), encoding="utf-8")
    return files


def _candidate(edge: Edge) -> str:
    """Candidates of one kind share a correction: ``3-5 ghost`` is a ghost."""
    return edge.name.partition(" ")[2] or edge.name


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
