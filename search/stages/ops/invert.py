"""Inversion as a stage: images synthesised from a teacher alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import ClassVar

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.synthesis.inversion import (
    Inversion,
    invert,
)
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import load_network
from stillhouse.search.stages.core.stage import (
    EpochMetrics,
    ImageOperation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.config.base import setting

METRIC_NAMES = ("loss", "cross_entropy", "norms", "teacher_accuracy")
"""Metrics of the images, averaged over the batches."""


class InvertTeacher(ImageOperation, Inversion):
    """Optimise noise into images that the teacher assigns to its classes."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "invert"

    seed: int = setting(0, "seed of the noise", ge=0)

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
