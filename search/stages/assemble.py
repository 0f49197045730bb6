"""``do: assemble``: the best student that can be assembled from neighbourhoods under budgets.

The planner chooses cuts, candidates and widths together, from the records in the library. The
assembly recalibrates its batch-norm statistics. The result is an ordinary network, and trials train
it further. ``rank`` selects the second best plan, the third best and so on, so that a search can
compare what they really reach. ``calibrate`` builds a few assemblies first, and corrects the
additive cost model by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, field_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.search.assembly.calibration import MIN_MEASURED_ASSEMBLIES
from stillhouse.search.assembly.pool import (
    ScoreName,
    end_label,
)
from stillhouse.search.core.metrics import COST_METRICS, LATENCY_METRIC
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import (
    Stage,
)
from stillhouse.search.stages.neighbourhoods import require_named_network
from stillhouse.search.stages.ops.assemble import AssembleNetwork
from stillhouse.search.stages.ops.latency import MeasureLatency
from stillhouse.search.stages.ops.neighbourhood import DistilNeighbourhood
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Domain, Integers
from stillhouse.spaces.config.limits import Limit, as_limit
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.latency import LatencySettings
from stillhouse.spaces.network_spec import NetworkSpec


class Assemble(StageConfig):
    """An entry that assembles a student from the neighbourhoods of a teacher."""

    neighbourhoods: str = setting(..., "the entry that distils them")
    budgets: dict[str, Annotated[Limit, BeforeValidator(as_limit)]] = setting(
        {}, "parameters, flops, bytes or latency_ms -> the maximum, or {min: ..., max: ...}"
    )
    score: ScoreName = setting(
        "kl",
        "score that is summed over the parts and minimised",
        Choice(("kl", "nmse", "accuracy_drop")),
    )
    rank: int = setting(0, "0: the best plan, 1: the second best, ...", Integers(0, 7), ge=0)
    apart: int = setting(
        1, "minimum number of positions in which two plans differ", Integers(1, 3), ge=1
    )
    recalibrate: int | None = setting(
        None,
        "training batches of 256 that recalibrate batch-norm statistics; none: 20, or 0 if the "
        "parts were trained with inputs: statistics",
        ge=0,
    )
    calibrate: int = setting(
        0, "assemblies built first to correct the summed scores and latencies", ge=0
    )
    latency: LatencySettings | None = setting(
        None, "measure every part and the whole, as in run.latency or as set here"
    )
    chosen: tuple[str, ...] = setting(
        (), "assemble these parts, such as `3-5 ghost`, without planning"
    )

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
        """With ``latency``, if a budget needs latency and the entry has no settings for it."""
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
            message = (
                f"{self.neighbourhoods} distils no neighbourhoods; "
                "name an entry with do: neighbourhoods"
            )
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
        """Assemblies for calibration, spread from the cheapest to the best, without budgets."""
        spread_cost = next(iter(self.budgets), "parameters")
        changes = {"budgets": {}, "rank": 0, "apart": 1, "along": spread_cost}
        for i in range(self.calibrate):
            share = (i + 1) / (self.calibrate + 1)
            calibration_operation = operation.model_copy(update={**changes, "share": share})
            yield Stage(f"{name}/first{i + 1}", calibration_operation, data, parents)

    def _latency_stages(
        self, name: str, neighbourhoods: Sequence[Stage], spec: NetworkSpec, data: DataConfig
    ) -> Iterator[tuple[str, Stage]]:
        """Label of each part -> its latency stage; parts of one structure share a stage."""
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
    """Label and settings of every part that an assembly may contain."""
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
