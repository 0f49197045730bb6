"""Assembling as a stage: the best student that neighbourhoods make under budgets."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.evaluation import evaluate_validation, validation_metric_names
from stillhouse.methods.core.training.neighbourhood import recalibrate_batch_norm
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.cost_model import AssemblyCostModel, fit_cost_model
from stillhouse.search.assembly.network import load_network, network_description
from stillhouse.search.assembly.planner import Assembly
from stillhouse.search.assembly.pool import (
    BlockPool,
    ScoreName,
    replacement_of,
)
from stillhouse.search.core.metrics import LATENCY_METRIC
from stillhouse.search.stages.core.stage import (
    COST_NAMES,
    EpochMetrics,
    NetworkOperation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.search.stages.ops.latency import LATENCY_METRICS
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.limits import Limit
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.latency import LatencySettings


class AssembleNetwork(NetworkOperation):
    """Plan an assembly, build it, recalibrate it, and measure accuracy and latency."""

    version: ClassVar[int] = 3
    kind: ClassVar[str] = "assemble"

    budgets: dict[str, Limit] = setting({}, "cost -> the allowed range")
    score: ScoreName = setting("kl", "score that is summed over the parts and minimised")
    rank: int = setting(0, "0: the best plan, 1: the second best, ...", ge=0)
    apart: int = setting(1, "minimum number of positions in which two plans differ", ge=1)
    recalibrate: int = setting(20, "training batches of 256 for batch-norm statistics", ge=0)
    latency: LatencySettings | None = setting(None, "how latency is measured; none: not at all")
    timed: dict[str, str] = setting({}, "label of a part -> key of its latency")
    along: str = setting("parameters", "cost along which calibration assemblies are spread")
    share: float | None = setting(
        None, "position between the minimum of that cost and the best score"
    )

    def identity(self) -> dict[str, Any]:
        """Without ``timed``, which the parents decide."""
        latency = self.latency.identity() if self.latency else None
        return {k: v for k, v in self.plain().items() if k != "timed"} | {"latency": latency}

    def metric_names(self, stage: Stage) -> frozenset[str]:
        """Without ``planned_loss``, which needs calibration assemblies that differ enough."""
        names = (
            COST_NAMES | validation_metric_names(stage.data, stage.subclasses) | {"planned_score"}
        )
        latency_names = {*LATENCY_METRICS, "summed_latency_ms", "planned_latency_ms"}
        return names | (latency_names if self.latency else frozenset())

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        dataset, teacher = open_data(data), load_network(parents[0])
        pool = BlockPool(teacher, dataset.shape, parents[1:], self.timed)
        cost_model = fit_cost_model(pool, self.score, [parent.record for parent in parents])
        plan = self._choose_plan(cost_model)
        neighbourhoods = pool.neighbourhoods_on(plan.edges)
        network = pool.build_network(neighbourhoods)
        if self.recalibrate:
            recalibrate_batch_norm(network, dataset, context.device, self.recalibrate)
        epoch_metrics = {"epoch": 1.0} | evaluate_validation(network, dataset, context.device)
        yield epoch_metrics
        metrics = {k: v for k, v in epoch_metrics.items() if k != "epoch"}
        metrics |= compute_costs(network.cpu(), dataset.shape).plain() | _expected_metrics(
            cost_model, plan
        )
        if self.latency:
            metrics |= self.latency.measure(network, dataset.shape)
        replacements = [replacement_of(artifact) for artifact in neighbourhoods]
        metadata = {
            "data": facts(data).plain(),
            "assembly": {
                "teacher": network_description(parents[0])["teacher"],
                "pieces": [replacement.plain() for replacement in replacements],
            },
            "chosen": [replacement.label for replacement in replacements],
            "parts": list(pool.describe_parts(plan.edges, cost_model.additive_edges)),
            "over": dict(self._exceeded_budgets(metrics)),
        }
        metadata |= (
            {"calibration": cost_model.calibration_summary()}
            if cost_model.calibration_summary()
            else {}
        )
        return StageResult(network.state_dict(), metrics, metadata)

    def _choose_plan(self, cost_model: AssemblyCostModel) -> Assembly:
        if self.share is not None:
            return cost_model.plan_at_share(self.along, self.share)
        return cost_model.best_plans(self.budgets, self.rank + 1, self.apart)[-1]

    def _exceeded_budgets(self, metrics: Mapping[str, float]) -> Iterator[tuple[str, Any]]:
        """Budgets that the built network exceeds, as latency may."""
        for cost, limit in self.budgets.items():
            if limit.violation(metrics[cost]) > 0:
                yield cost, {"found": metrics[cost], "most": limit.max, "least": limit.min}


def _expected_metrics(cost_model: AssemblyCostModel, plan: Assembly) -> dict[str, float]:
    """Metrics that the planner predicts for a plan."""
    score, latency = cost_model.additive_sums(plan.edges)
    metrics = {
        "planned_score": score,
        "planned_loss": cost_model.expected_loss(plan),
        "summed_latency_ms": latency,
        "planned_latency_ms": plan.costs.get(LATENCY_METRIC),
    }
    return {name: value for name, value in metrics.items() if value is not None}
