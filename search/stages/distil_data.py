"""``do: distil_data``: a few synthetic examples with soft labels, in place of a training split.

Soft-label dataset distillation (Sucholutsky and Schonlau 2021), and with ``labels: hard`` the
original (Wang et al. 2018); see :mod:`stillhouse.methods.core.synthesis.distilling`. A ``train``
entry learns on the examples with ``data: {distilled: ENTRY}``: by ordinary epochs, or with
``few_steps: true`` by the very steps that were distilled. Examples of texts are points in the space
of word vectors; their record holds the nearest words.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import embedding_space, embedding_table, facts
from stillhouse.methods.core.synthesis.distilling.distil import distil
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import require_no_batch_norm
from stillhouse.methods.core.training.evaluation import validation_metric_names
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import (
    REPLICA_SEED_OFFSET,
    EpochMetrics,
    Operation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.search.stages.ops.train import new_network
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.network_spec import NetworkSpec

MAX_RECORDED_WORDS = 30
"""Of every distilled sentence that its record holds."""


class DistilData(Operation, Distilling):
    """Learn examples, labels and step sizes by which networks of one kind are trained."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "distil_data"
    makes_images: ClassVar[bool] = True
    makes_soft_labels: ClassVar[bool] = True

    network: NetworkSpec = setting(..., "that is trained in a few steps")
    seed: int = setting(0, "of the examples' noise and the networks", ge=0)

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
    """The first words of each example, in the nearest words; nothing of images."""
    if embedding_space(data) is None:
        return {}
    return {"sentences": embedding_table(data).nearest_words(images[:, :, :MAX_RECORDED_WORDS])}


class Distil(StageConfig, Distilling):
    """An entry that makes a small data set for one kind of network."""

    network: NetworkSpec = setting(
        ..., "name of a network without batch norm, or {name: {settings}}"
    )

    @property
    def is_reseeded(self) -> bool:
        return True  # the first network is the student's, so both go by one seed

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        about = facts(data)
        require_no_batch_norm(self.network.build_for_shapes(about.shape, about.classes))
        if unknown_labels := [
            label for label in self.classes or () if not 0 <= label < about.classes
        ]:
            message = f"has {unknown_labels[0]}, and classes go from 0 to {about.classes - 1}"
            raise ConfigError([Problem("classes", message)])
        if data.augment.noise and self.initial_images != "noise":
            field = "image_start" if self.images == "learnt" else "images"
            raise ConfigError([Problem(field, "noise has none of a class; leave it out")])
        self.check_split(about.sizes["validation"])
        settings = {field: getattr(self, field) for field in Distilling.model_fields}
        operation = DistilData(**settings, network=self.network, seed=self.seed)
        return ExpandedStage((Stage(name, operation, data),))

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("network", field):
                return type(self.network.settings).search_space().get(field)
            case (field,):
                return type(self).search_space().get(field)
        return None
