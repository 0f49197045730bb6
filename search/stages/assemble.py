"""``do: assemble``: the best student that a teacher's neighbourhoods make under budgets.

The planner picks cuts, candidates and widths at once from what the library knows of each;
batch-norm statistics are taken anew; the result is an ordinary network that trials go on from.
``rank`` takes the second best plan, the third best and so on, so that a search chooses among them
by what they really reach. ``calibrate`` has a few assemblies made first, and corrects by them what
parts add up to.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, field_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.evaluation import evaluate_validation, validation_metric_names
from stillhouse.methods.core.training.neighbourhood import recalibrate_batch_norm
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.calibration import MIN_MEASURED_ASSEMBLIES
from stillhouse.search.assembly.cost_model import AssemblyCostModel, fit_cost_model
from stillhouse.search.assembly.network import load_network, network_description
from stillhouse.search.assembly.planner import Assembly
from stillhouse.search.assembly.pool import (
    BlockPool,
    ScoreName,
    end_label,
    replacement_of,
)
from stillhouse.search.core.metrics import COST_METRICS, LATENCY_METRIC
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import (
    COST_NAMES,
    EpochMetrics,
    Operation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.search.stages.neighbourhoods import require_named_network
from stillhouse.search.stages.ops.latency import LATENCY_METRICS, MeasureLatency
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Domain, Integers
from stillhouse.spaces.config.limits import Limit, as_limit
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.latency import LatencySettings
from stillhouse.spaces.network_spec import NetworkSpec


class AssembleNetwork(Operation):
    """Plan, put together, recalibrate, evaluate, time as a whole."""

    version: ClassVar[int] = 3
    kind: ClassVar[str] = "assemble"
    makes_network: ClassVar[bool] = True

    budgets: dict[str, Limit] = setting({}, "cost -> the range it must keep")
    score: ScoreName = setting("kl", "what is added up and minimised")
    rank: int = setting(0, "0 the best plan, 1 the second best, ...", ge=0)
    apart: int = setting(1, "places in which two plans differ at least", ge=1)
    recalibrate: int = setting(20, "training batches of 256 for batch-norm statistics", ge=0)
    latency: LatencySettings | None = setting(None, "how it is timed, if it is")
    timed: dict[str, str] = setting({}, "label of a part -> key of its latency")
    along: str = setting("parameters", "cost by which assemblies to calibrate by are spread")
    share: float | None = setting(None, "of the way from the least of that cost to the best score")

    def identity(self) -> dict[str, Any]:
        """``timed`` says what the parents do."""
        latency = self.latency.identity() if self.latency else None
        return {k: v for k, v in self.plain().items() if k != "timed"} | {"latency": latency}

    def metric_names(self, stage: Stage) -> frozenset[str]:
        """Without ``planned_loss``, which takes first assemblies that differ enough."""
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
        """Budgets that the whole network was found not to keep, as a latency may."""
        for cost, limit in self.budgets.items():
            if limit.violation(metrics[cost]) > 0:
                yield cost, {"found": metrics[cost], "most": limit.max, "least": limit.min}


def _expected_metrics(cost_model: AssemblyCostModel, plan: Assembly) -> dict[str, float]:
    """What the planner expects of a plan."""
    score, latency = cost_model.additive_sums(plan.edges)
    metrics = {
        "planned_score": score,
        "planned_loss": cost_model.expected_loss(plan),
        "summed_latency_ms": latency,
        "planned_latency_ms": plan.costs.get(LATENCY_METRIC),
    }
    return {name: value for name, value in metrics.items() if value is not None}


class Assemble(StageConfig):
    """An entry that makes the best student of a teacher's neighbourhoods."""

    neighbourhoods: str = setting(..., "the entry that distils them")
    budgets: dict[str, Annotated[Limit, BeforeValidator(as_limit)]] = setting(
        {}, "parameters, flops, bytes or latency_ms -> the most, or {min: ..., max: ...}"
    )
    score: ScoreName = setting(
        "kl", "what is added up and minimised", Choice(("kl", "nmse", "accuracy_drop"))
    )
    rank: int = setting(0, "0 the best plan, 1 the second best, ...", Integers(0, 7), ge=0)
    apart: int = setting(1, "places in which two plans differ at least", Integers(1, 3), ge=1)
    recalibrate: int | None = setting(
        None,
        "training batches of 256 for batch-norm statistics; none means 20, or 0 where parts were "
        "learnt from drawn statistics, which fit as they are",
        ge=0,
    )
    calibrate: int = setting(
        0, "assemblies made first, by which sums of scores and latencies are corrected", ge=0
    )
    latency: LatencySettings | None = setting(
        None, "time every part and the whole, as run.latency says or as is said here"
    )
    chosen: tuple[str, ...] = setting((), "these parts, like `3-5 ghost`, instead of planning")

    @field_validator("calibrate")
    @classmethod
    def _require_enough(cls, calibrate: int) -> int:
        if 0 < calibrate < MIN_MEASURED_ASSEMBLIES:
            raise ValueError(
                f"needs {MIN_MEASURED_ASSEMBLIES} or more to fit a line, or 0, found {calibrate}"
            )
        return calibrate

    def dependencies(self) -> tuple[str, ...]:
        return (self.neighbourhoods,)

    @property
    def is_reseeded(self) -> bool:
        return False

    def with_latency_settings(self, latency: LatencySettings) -> Assemble:
        """Where a budget asks for latency and nothing is said here of how, as ``latency`` says."""
        is_timed = self.latency is not None or LATENCY_METRIC in self.budgets
        has_own_settings = self.latency is not None and self.latency.model_fields_set
        return (
            self.model_copy(update={"latency": latency})
            if is_timed and not has_own_settings
            else self
        )

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        neighbourhoods = expanded_dependencies[self.neighbourhoods].teaching_stages
        if any(stage.operation.kind != "neighbourhood" for stage in neighbourhoods):
            message = f"{self.neighbourhoods} distils none; name an entry with do: neighbourhoods"
            raise ConfigError([Problem("neighbourhoods", message)])
        for cost in self.budgets:
            if cost not in COST_METRICS:
                raise ConfigError([Problem("budgets", unknown_message("cost", cost, COST_METRICS))])
        spec = require_named_network(neighbourhoods[0].parents[0])
        if self.chosen:
            neighbourhoods = self._chosen_neighbourhoods(neighbourhoods)
        latency_stages = (
            dict(self._latency_stages(name, neighbourhoods, spec, data)) if self.latency else {}
        )
        operation = AssembleNetwork(
            budgets=self.budgets,
            score=self.score,
            rank=self.rank,
            apart=self.apart,
            recalibrate=self._recalibration_batches(neighbourhoods),
            latency=self.latency,
            timed={label: stage.key for label, stage in latency_stages.items()},
        )
        boundary_stages = {
            boundary.key: boundary for stage in neighbourhoods for boundary in stage.parents[1:]
        }
        distinct_latency_stages = {stage.key: stage for stage in latency_stages.values()}
        parents = (
            neighbourhoods[0].parents[0],
            *boundary_stages.values(),
            *distinct_latency_stages.values(),
            *neighbourhoods,
        )
        calibration_stages = tuple(self._calibration_stages(name, operation, data, parents))
        return ExpandedStage((Stage(name, operation, data, (*parents, *calibration_stages)),))

    def _calibration_stages(
        self, name: str, operation: AssembleNetwork, data: DataConfig, parents: tuple[Stage, ...]
    ) -> Iterator[Stage]:
        """Assemblies to calibrate by: spread from the cheapest to the best, whatever the budget."""
        spread_cost = next(iter(self.budgets), "parameters")
        changes = {"budgets": {}, "rank": 0, "apart": 1, "along": spread_cost}
        for i in range(self.calibrate):
            share = (i + 1) / (self.calibrate + 1)
            calibration_operation = operation.model_copy(update={**changes, "share": share})
            yield Stage(f"{name}/first{i + 1}", calibration_operation, data, parents)

    def _latency_stages(
        self, name: str, neighbourhoods: Sequence[Stage], spec: NetworkSpec, data: DataConfig
    ) -> Iterator[tuple[str, Stage]]:
        """The latency of each part by its label; parts of one structure share theirs."""
        assert self.latency is not None
        about = facts(data)
        stem_operation = MeasureLatency(
            network=spec, shape=about.shape, classes=about.classes, part="stem", how=self.latency
        )
        for label, part_settings in _timed_parts(neighbourhoods):
            yield (
                label,
                Stage(
                    f"{name}/time {label}", stem_operation.model_copy(update=part_settings), data
                ),
            )

    def _recalibration_batches(self, neighbourhoods: Sequence[Stage]) -> int:
        if self.recalibrate is not None:
            return self.recalibrate
        uses_statistics = any(
            getattr(stage.operation, "inputs", "data") == "statistics" for stage in neighbourhoods
        )
        return 0 if uses_statistics else 20

    def _chosen_neighbourhoods(self, neighbourhoods: Sequence[Stage]) -> tuple[Stage, ...]:
        by_label = {stage.label.partition("/")[2]: stage for stage in neighbourhoods}
        for label in self.chosen:
            if label not in by_label:
                raise ConfigError([Problem("chosen", unknown_message("part", label, by_label))])
        return tuple(by_label[label] for label in self.chosen)

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        return type(self).search_space().get(path[0]) if len(path) == 1 else None


def _timed_parts(neighbourhoods: Iterable[Stage]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and settings of every part that an assembly may be made of."""
    operations = [
        stage.operation
        for stage in neighbourhoods
        if isinstance(stage.operation, DistilNeighbourhood)
    ]
    first_cut, last_cut = (
        min(operation.start for operation in operations),
        max(operation.stop for operation in operations),
    )
    for width in sorted(
        {operation.enter for operation in operations if operation.start == first_cut}
    ):
        yield end_label("stem", width), {"part": "stem", "leave": width}
    for width in sorted(
        {operation.leave for operation in operations if operation.stop == last_cut}
    ):
        yield end_label("head", width), {"part": "head", "enter": width}
    fields = ("start", "stop", "block", "enter", "leave")
    for operation in operations:
        settings = {field: getattr(operation, field) for field in fields}
        yield operation.replacement.label, {"part": "piece", **settings}
