"""Training as a stage: a network from its seed, from weights or from another stage."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset, open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.data.replaced_train_split import ReplacedTrainSplit
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.synthesis.distilling.distilled_set import (
    DistilledSet,
    train_on_distilled,
)
from stillhouse.methods.core.training.evaluation import evaluate_validation, validation_metric_names
from stillhouse.methods.core.training.train import (
    Training,
    selected_metrics,
    train,
    training_metric_names,
)
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.frozen import frozen_teacher
from stillhouse.search.assembly.network import load_network, network_description, reinitialise
from stillhouse.search.stages.core.stage import (
    COST_NAMES,
    REPLICA_SEED_OFFSET,
    EpochMetrics,
    NetworkOperation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.search.stages.core.weights import WeightsSettings
from stillhouse.search.stages.ops.forgetting import forgetting_metric_names, forgetting_metrics
from stillhouse.spaces.compression.quantisation import packed_state_dict
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.cost import compute_costs, network_costs
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.weights import load_published, read_state


class TrainNetwork(NetworkOperation):
    """Build a network from its seed, weights or the first parent, and train it."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "train"

    network: NetworkSpec | None = setting(
        None, "the network; none: the network of the first parent"
    )
    anew: bool = setting(
        False, "only the architecture of the first parent, with weights from the seed"
    )
    before: tuple[DataConfig, ...] = setting((), "earlier training data of the first parent")
    objective: Objective | None = setting(None, "objective; none: not trained here")
    training: Training = setting(Training(), "training")
    weights: WeightsSettings | None = setting(
        None, "published weights to start from, or to use without training"
    )
    images: bool = setting(False, "train on the images of the parent before the teachers")
    few_steps: bool = setting(False, "take only the steps that were distilled with these images")
    seed: int = setting(0, "seed of initialisation, order of examples, dropout", ge=0)

    @property
    def epochs(self) -> int:
        return self.training.epochs if self.objective else 1

    @property
    def workers(self) -> int:
        return self.training.workers if self.objective else 1

    @property
    def peer_networks(self) -> tuple[NetworkSpec, ...]:
        """Other networks in the same training."""
        return ()

    def identity(self) -> dict[str, Any]:
        weights_identity = None
        if self.weights:
            weights_identity = {**self.weights.plain(), "path": self.weights.file_sha256()}
        training_identity: dict[str, Any] | None = None
        if self.objective:
            training_identity = {
                "objective": self.objective.identity(),
                "training": self.training.identity(),
            }
            if self.training.keep == "best":
                # Records of older versions have the metrics of the last epoch.
                training_identity["figures"] = "of the best epoch"
        identity: dict[str, Any] = {
            "network": self.network.identity() if self.network else None,
            "weights": weights_identity,
            "taught": training_identity,
            "seed": self.seed if self.objective or not self.weights else 0,
        }
        flags = {"anew": self.anew, "images": self.images, "few_steps": self.few_steps}
        identity |= {name: True for name, is_set in flags.items() if is_set}
        if self.before:
            identity["before"] = [data.validation_identity() for data in self.before]
        return identity

    @property
    def num_leading_parents(self) -> int:
        """Number of parents before the teachers."""
        return (self.network is None) + self.images

    def replica(self, index: int) -> TrainNetwork | None:
        if self.objective is None and not self.few_steps:
            return None
        return self.model_copy(update={"seed": self.seed + REPLICA_SEED_OFFSET * index})

    def split_classes(
        self, subclasses: int, extra_methods: Mapping[str, Any]
    ) -> TrainNetwork | None:
        """The same training of a network with ``subclasses`` per class, and more methods.

        None if the network is pretrained or belongs to another stage.
        """
        if self.objective is None or self.network is None or self.weights is not None:
            return None
        objective = Objective.parse({**extra_methods, **self.objective.plain()})
        network = self.network.with_num_subclasses(subclasses)
        return self.model_copy(update={"network": network, "objective": objective})

    @property
    def subclasses(self) -> int | None:
        return self.network.subclasses if self.network else None

    @property
    def continues_parent(self) -> bool:
        return self.network is None and not self.anew

    def metrics_so_far(self, curve: Sequence[EpochMetrics]) -> EpochMetrics:
        return selected_metrics(curve, self.training) if self.objective else curve[-1]

    def costs(self, data: DataConfig) -> dict[str, float]:
        if self.network is None:
            return {}
        about = facts(data)
        return network_costs(self.network.plain(), about.shape, about.classes).plain()

    def metric_names(self, stage: Stage) -> frozenset[str]:
        has_teachers = len(stage.parents) > self.num_leading_parents
        names = validation_metric_names(stage.data, stage.subclasses, teachers=has_teachers)
        if self.objective:
            names |= training_metric_names(self.objective, self.training, validates=bool(names))
        if self.before:
            names |= forgetting_metric_names(self.before)
        return names | COST_NAMES

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        dataset = open_data(data)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self._build_network(data) if self.network else self._continue_from(parents[0])
        start_artifacts = () if self.network else parents[:1]
        if self.images:
            dataset = with_made_images(dataset, parents[len(start_artifacts)])
        teachers = [
            frozen_teacher(parent, context.device) for parent in parents[self.num_leading_parents :]
        ]
        curve: list[EpochMetrics] = []
        if self.objective:
            for epoch_metrics in train(
                network,
                teachers,
                self.objective,
                dataset,
                self.training,
                seed=self.seed,
                device=context.device,
                checkpointer=context.checkpointer,
                peers=self._build_peers(dataset.config),
                communicator=context.communicator,
            ):
                curve.append(epoch_metrics)
                yield epoch_metrics
        else:
            if self.few_steps:
                train_on_distilled(
                    network.to(context.device),
                    *distilled_examples(parents[len(start_artifacts)], context),
                )
            curve.append(
                {"epoch": 1.0} | evaluate_validation(network, dataset, context.device, teachers)
            )
            yield curve[-1]
        about = facts(data)
        metrics = {k: v for k, v in self.metrics_so_far(curve).items() if k != "epoch"}
        metrics |= self.costs(data) or compute_costs(network, about.shape).plain()
        if self.before:
            metrics |= forgetting_metrics(
                self.before, load_network(parents[0]), network, context.device
            )
        metadata: dict[str, Any] = {"data": about.plain()}
        for parent in start_artifacts:
            metadata["assembly"] = network_description(parent)
        return StageResult(packed_state_dict(network), metrics, metadata)

    def _build_peers(self, data: DataConfig) -> list[Network]:
        """The other networks of the training, in their initial state."""
        return []

    def _continue_from(self, parent: Artifact) -> Network:
        return reinitialise(parent) if self.anew else load_network(parent)

    def _build_network(self, data: DataConfig) -> Network:
        assert self.network is not None
        network = new_network(self.network, data)
        if self.weights is None:
            return network
        state = read_state(self.weights.path)
        network = load_published(network, self.network.settings, state, self.weights.path)
        if self.weights.mean and self.weights.std:
            network = network.with_normalisation(self.weights.mean, self.weights.std)
        return network


def new_network(spec: NetworkSpec, data: DataConfig) -> Network:
    """An initialised network with the normalisation of a data set; uses torch's global RNG."""
    about = facts(data)
    mean, std = spec.normalisation(about.mean, about.std)
    return spec.build(about.shape, about.classes).with_normalisation(mean, std)


def with_made_images(dataset: Dataset, artifact: Artifact) -> Dataset:
    """The data set with the images of an artifact as its training split."""
    return ReplacedTrainSplit(
        dataset, artifact.tensors["images"], artifact.tensors["labels"], artifact.record.key
    )


def distilled_examples(artifact: Artifact, context: StageContext) -> tuple[DistilledSet, int]:
    """The distilled examples of an artifact, and the number of steps in a pass over them."""
    names = DistilledSet._fields
    examples = DistilledSet(*(artifact.tensors[name].to(context.device) for name in names))
    return examples, int(artifact.record.facts["steps"])
