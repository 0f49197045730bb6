"""``do: invert``: images from a teacher alone, to train on where its data is gone.

DeepInversion (Yin et al. 2020); see :mod:`stillhouse.methods.core.synthesis.inversion`. A ``train``
entry learns on them with ``images: ENTRY``. Of the experiment's data the shape, the classes and the
normalisation are used, and no image.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.synthesis.inversion import (
    Inversion,
    invert,
    require_running_statistics,
)
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import load_network, sketch_and_cuts
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import (
    EpochMetrics,
    Operation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.config.base import canonical_json, setting
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem

METRIC_NAMES = ("loss", "cross_entropy", "norms", "teacher_accuracy")
"""Of the images; means over the batches."""


class InvertTeacher(Operation, Inversion):
    """Descend from noise to images that a teacher takes for its classes."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "invert"
    makes_images: ClassVar[bool] = True

    seed: int = setting(0, "of the noise", ge=0)

    @property
    def epochs(self) -> int:
        return -(-self.images // self.batch_size)

    def metric_names(self, stage: Stage) -> frozenset[str]:
        return frozenset(METRIC_NAMES)

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        about = facts(data)
        inversion = invert(
            load_network(parents[0]),
            about.shape,
            about.classes,
            self,
            seed=self.seed,
            device=context.device,
            checkpointer=context.checkpointer,
        )
        curve: list[EpochMetrics] = []
        while True:
            try:
                curve.append(next(inversion))
                yield curve[-1]
            except StopIteration as stop:
                inverted = stop.value
                break
        metrics = {
            name: sum(epoch_metrics[name] for epoch_metrics in curve) / len(curve)
            for name in METRIC_NAMES
        }
        metadata = {"data": about.plain()}
        return StageResult(
            {"images": inverted.images, "labels": inverted.labels}, metrics, metadata
        )


class Invert(StageConfig, Inversion):
    """An entry that makes images from a teacher."""

    teacher: str = setting(..., "the entry whose network is inverted; it needs batch norm")

    def dependencies(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def is_reseeded(self) -> bool:
        return False  # what students are taught with is kept, as their teacher is

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        teacher = expanded_dependencies[self.teacher].stage
        if not teacher.operation.makes_network:
            message = f"{teacher.label} is a {teacher.operation.kind}, no network to invert"
            raise ConfigError([Problem("teacher", message)])
        if (spec := getattr(teacher.operation, "network", None)) is not None:
            about = facts(data)
            spec_json = canonical_json(spec.plain())
            require_running_statistics(sketch_and_cuts(spec_json, about.shape, about.classes)[0])
        settings = {field: getattr(self, field) for field in Inversion.model_fields}
        operation = InvertTeacher(**settings, seed=self.seed)
        return ExpandedStage((Stage(name, operation, data, (teacher,)),))

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        return type(self).search_space().get(path[0]) if len(path) == 1 else None
