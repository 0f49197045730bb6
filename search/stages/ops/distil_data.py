"""Data set distillation as a stage: a few synthetic examples and step sizes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar

from torch import Tensor

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import embedding_space, embedding_table, facts
from stillhouse.methods.core.synthesis.distilling.distil import distil
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.training.evaluation import validation_metric_names
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.stages.core.stage import (
    REPLICA_SEED_OFFSET,
    EpochMetrics,
    ImageOperation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.search.stages.ops.train import new_network
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.network_spec import NetworkSpec

MAX_RECORDED_WORDS = 30
"""Maximum number of words of a distilled sentence in the record."""


class DistilData(ImageOperation, Distilling):
    """Distil examples, labels and step sizes that train networks of one architecture."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "distil_data"
    has_soft_labels: ClassVar[bool] = True

    network: NetworkSpec = setting(..., "network that the examples train")
    seed: int = setting(0, "seed of the noise and of the networks", ge=0)

    @property
    def epochs(self) -> int:
        return self.num_reports

    def identity(self) -> dict[str, Any]:
        identity = self.plain() | {"network": self.network.identity()}
        random_start_fields = {"networks", "judged_on"}
        return {
            k: v
            for k, v in identity.items()
            if self.start == "random" or k not in random_start_fields
        }

    def replica(self, index: int) -> DistilData:
        return self.model_copy(update={"seed": self.seed + REPLICA_SEED_OFFSET * index})

    def metric_names(self, stage: Stage) -> frozenset[str]:
        names = validation_metric_names(stage.data, self.network.subclasses)
        if names and self.start == "random":
            names |= {"val_accuracy_spread"}
        return names | {"lr", "train_loss", "rate", "examples"}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        distilled, metrics = yield from distil(
            lambda: new_network(self.network, data),
            open_data(data),
            self,
            seed=self.seed,
            device=context.device,
            checkpointer=context.checkpointer,
        )
        metrics["examples"] = float(len(distilled.images))
        metadata = {"data": facts(data).plain(), "steps": self.steps} | _nearest_sentences(
            data, distilled.images
        )
        return StageResult(distilled._asdict(), metrics, metadata)


def _nearest_sentences(data: DataConfig, images: Tensor) -> dict[str, list[str]]:
    """The nearest words of each example, up to a maximum; empty for images."""
    if embedding_space(data) is None:
        return {}
    return {"sentences": embedding_table(data).nearest_words(images[:, :, :MAX_RECORDED_WORDS])}
