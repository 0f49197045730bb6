"""Offers: what a library's neighbourhoods would make under given budgets, nothing trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.methods.core.data.facts import facts
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.cost_model import Estimate, estimate
from stillhouse.search.assembly.network import rebuild
from stillhouse.search.assembly.planner import Assembly
from stillhouse.search.assembly.pool import LATENCY, Pool, piece_of
from stillhouse.search.core.addresses import shown
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.stage_graph import Recipe
from stillhouse.search.stages.assemble import AssembleNetwork
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError, Problem


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
    """Plans in order, and how far what was assembled before bears the planner out."""

    found: tuple[Offer, ...]
    known: Estimate


def offers(
    experiment: Experiment, budgets: Mapping[str, Limit], best: int, along: str = ""
) -> Offers:
    """The best assemblies of what is in the library, under ``budgets`` and the file's own.

    With ``along``, so many of the Pareto front of score against that cost instead.

    Raises:
        ConfigError: the experiment assembles nothing, the library has no neighbourhoods for it,
            or no assembly keeps the budgets.
    """
    _, stage = _assembly(experiment)
    work = stage.work
    assert isinstance(work, AssembleNetwork)
    pool = _pool(experiment, stage)
    known = estimate(pool, work.score, Library(experiment.library).records())
    limits = {**work.budgets, **budgets}
    if along:
        own = {cost: limit for cost, limit in limits.items() if cost != along or cost in budgets}
        found = known.front(along, own, best)
    else:
        found = known.plans(limits, best, work.apart, fewer=True)
    offered = (_offer(rank, plan, known, pool) for rank, plan in enumerate(found))
    return Offers(tuple(offered), known)


def _offer(rank: int, plan: Assembly, known: Estimate, pool: Pool) -> Offer:
    loss, record = known.expected_loss(plan), known.measured.get(plan.edges)
    return Offer(
        rank,
        plan.score if loss is None else loss,
        dict(plan.costs),
        tuple(piece_of(artifact).label for artifact in pool.chosen(plan.edges)),
        1.0 - record.figures["val_accuracy"] if record else None,
    )


def write_offers(
    experiment: Experiment, budgets: Mapping[str, Limit], found: Sequence[Offer], folder: Path
) -> list[Path]:
    """One experiment file for each offer, for ``launch``; returns their places."""
    name, _ = _assembly(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for offer in found:
        values = {f"{name}.{field}": value for field, value in _as_chosen(offer, budgets).items()}
        settled = experiment.settled(values, f"{experiment.name}-{offer.rank}")
        files.append(folder / f"{experiment.name}-{offer.rank}.yaml")
        files[-1].write_text(to_yaml(settled), encoding="utf-8")
    return files


def _as_chosen(offer: Offer, budgets: Mapping[str, Limit]) -> dict[str, Any]:
    """Fields of an entry that assembles one offer. A latency is timed and not planned by: it was
    expected with corrections that one assembly alone does not have."""
    kept = {c: b.model_dump(exclude_none=True) for c, b in budgets.items() if c != LATENCY}
    timed: dict[str, Any] = {"latency": {}} if LATENCY in budgets else {}
    return {"chosen": list(offer.chosen), "budgets": kept, "rank": 0, "calibrate": 0, **timed}


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
        message = f"{shown(experiment.library)} has no neighbourhoods for it yet; launch it once"
        raise ConfigError([Problem("library", message)])
    made = [library.open(parent.key) for parent in there]
    assert isinstance(stage.work, AssembleNetwork)
    return Pool(rebuild(made[0]), facts(stage.data).shape, made[1:], stage.work.timed)
