"""Proposes assemblies of a library's neighbourhoods under budgets, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stillhouse.methods.core.data.facts import facts
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.cost_model import AssemblyCostModel, fit_cost_model
from stillhouse.search.assembly.network import load_network
from stillhouse.search.assembly.planner import Assembly
from stillhouse.search.assembly.pool import BlockPool, replacement_of
from stillhouse.search.core.addresses import for_display
from stillhouse.search.core.metrics import LATENCY_METRIC
from stillhouse.search.experiment.experiment import Experiment, to_yaml
from stillhouse.search.experiment.stage_graph import StageGraph
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.assemble import AssembleNetwork
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.config.problems import ConfigError, Problem


@dataclass(frozen=True)
class ProposedAssembly:
    """A proposed assembly with its blocks and its predicted and measured figures."""

    rank: int
    score: float
    costs: Mapping[str, float]
    chosen: tuple[str, ...]
    measured: float | None
    """Measured loss of accuracy, if the library has this assembly."""

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class AssemblyProposals:
    """Proposals in order, and the cost model with its calibration by measured assemblies."""

    proposals: tuple[ProposedAssembly, ...]
    cost_model: AssemblyCostModel


def propose_assemblies(
    experiment: Experiment, budgets: Mapping[str, Limit], count: int, trade_off_cost: str = ""
) -> AssemblyProposals:
    """The best ``count`` assemblies under ``budgets`` and the budgets of the experiment.

    With ``trade_off_cost``, ``count`` assemblies of the Pareto front of score against that cost.

    Raises:
        ConfigError: the experiment assembles nothing, the library has no neighbourhoods for it,
            or no assembly satisfies the budgets.
    """
    _, stage = _find_assembly(experiment)
    operation = stage.operation
    assert isinstance(operation, AssembleNetwork)
    pool = _open_pool(experiment, stage)
    cost_model = fit_cost_model(pool, operation.score, Library(experiment.library).records())
    limits = {**operation.budgets, **budgets}
    if trade_off_cost:
        other_limits = {
            cost: limit
            for cost, limit in limits.items()
            if cost != trade_off_cost or cost in budgets
        }
        plans = cost_model.pareto_front(trade_off_cost, other_limits, count)
    else:
        plans = cost_model.best_plans(limits, count, operation.apart, allow_fewer=True)
    proposals = (_proposal(rank, plan, cost_model, pool) for rank, plan in enumerate(plans))
    return AssemblyProposals(tuple(proposals), cost_model)


def _proposal(
    rank: int, plan: Assembly, cost_model: AssemblyCostModel, pool: BlockPool
) -> ProposedAssembly:
    loss, record = cost_model.expected_loss(plan), cost_model.measured_assemblies.get(plan.edges)
    return ProposedAssembly(
        rank,
        plan.score if loss is None else loss,
        dict(plan.costs),
        tuple(replacement_of(artifact).label for artifact in pool.neighbourhoods_on(plan.edges)),
        1.0 - record.figures["val_accuracy"] if record else None,
    )


def write_proposals(
    experiment: Experiment,
    budgets: Mapping[str, Limit],
    proposals: Sequence[ProposedAssembly],
    folder: Path,
) -> list[Path]:
    """Write an experiment file for each proposal; returns the paths."""
    stage_name, _ = _find_assembly(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for proposal in proposals:
        values = {
            f"{stage_name}.{field}": value
            for field, value in _fixed_fields(proposal, budgets).items()
        }
        configuration = experiment.fixed_configuration(values, f"{experiment.name}-{proposal.rank}")
        files.append(folder / f"{experiment.name}-{proposal.rank}.yaml")
        files[-1].write_text(to_yaml(configuration), encoding="utf-8")
    return files


def _fixed_fields(proposal: ProposedAssembly, budgets: Mapping[str, Limit]) -> dict[str, Any]:
    """Fields of an entry that assembles exactly one proposal.

    Latency is only timed, not a budget: its prediction used corrections from other assemblies.
    """
    remaining_budgets = {
        cost: budget.model_dump(exclude_none=True)
        for cost, budget in budgets.items()
        if cost != LATENCY_METRIC
    }
    latency_field: dict[str, Any] = {"latency": {}} if LATENCY_METRIC in budgets else {}
    return {
        "chosen": list(proposal.chosen),
        "budgets": remaining_budgets,
        "rank": 0,
        "calibrate": 0,
        **latency_field,
    }


def _find_assembly(experiment: Experiment) -> tuple[str, Stage]:
    """The entry with ``do: assemble``, and its stage."""
    graph: StageGraph = experiment.stage_graph()
    for name, expanded in graph.expanded_stages.items():
        if isinstance(expanded.stage.operation, AssembleNetwork):
            return name, expanded.stage
    message = "no entry assembles: --budget needs one with do: assemble"
    raise ConfigError([Problem("stages", message)])


def _open_pool(experiment: Experiment, stage: Stage) -> BlockPool:
    library = Library(experiment.library)
    available_parents = [parent for parent in stage.parents if library.has(parent.key)]
    if len(available_parents) < 2 or available_parents[0] is not stage.parents[0]:
        message = (
            f"{for_display(experiment.library)} has no neighbourhoods for it yet; launch it once"
        )
        raise ConfigError([Problem("library", message)])
    artifacts = [library.open_artifact(parent.key) for parent in available_parents]
    assert isinstance(stage.operation, AssembleNetwork)
    return BlockPool(
        load_network(artifacts[0]), facts(stage.data).shape, artifacts[1:], stage.operation.timed
    )
