"""Heads as a stage: a trained network gets classifiers on intermediate blocks."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import field_validator

from stillhouse.methods.core.config.requirements import HeadPlacement
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.training.evaluation import evaluate_validation, validation_metric_names
from stillhouse.methods.core.training.heads import train_heads
from stillhouse.methods.core.training.train import Training
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import load_network, network_description, sketch_and_cuts
from stillhouse.search.stages.core.stage import (
    COST_NAMES,
    REPLICA_SEED_OFFSET,
    EpochMetrics,
    NetworkOperation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.compression.quantisation import packed_state_dict
from stillhouse.spaces.config.base import canonical_json, setting
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.heads import maps, stage_ends, with_linear_heads
from stillhouse.spaces.modules.network import Shape, head_tap


class AttachHeads(NetworkOperation):
    """Add linear heads to blocks of the first parent's network, and train only the heads."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "heads"

    at: HeadPlacement = setting(
        "stages", "blocks that get a head; stages: the last block of each stage"
    )
    training: Training = setting(Training(), "training of all heads")
    seed: int = setting(0, "seed of initialisation and order of examples", ge=0)

    @field_validator("training")
    @classmethod
    def _refuse_ema(cls, training: Training) -> Training:
        if training.ema is not None:
            raise ValueError("each head keeps its own best epoch, without averaging; remove ema")
        return training.require_single_worker("heads learn")

    def identity(self) -> dict[str, Any]:
        return {**self.plain(), "training": self.training.identity()}

    def replica(self, index: int) -> AttachHeads:
        return self.model_copy(update={"seed": self.seed + REPLICA_SEED_OFFSET * index})

    @property
    def epochs(self) -> int:
        return self.training.epochs

    def metric_names(self, stage: Stage) -> frozenset[str]:
        """With metrics of single heads only if their blocks are known before the run."""
        names = COST_NAMES | validation_metric_names(stage.data, stage.subclasses)
        heads = [head_tap(block) for block in head_blocks_of(stage) or ()]
        if names - COST_NAMES:
            names |= {f"{head}_{name}" for head in heads for name in ("val_accuracy", "best_epoch")}
        return names | {"lr", "train_loss", "seconds", *(f"train_{head}" for head in heads)}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        dataset, network = open_data(data), load_network(parents[0])
        map_shapes = maps(network, dataset.shape)
        at = stage_ends(map_shapes) if self.at == "stages" else self.at
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = with_linear_heads(network, dataset.shape, dataset.classes, at)
        epoch_metrics: EpochMetrics = {}
        for epoch_metrics in train_heads(
            network,
            dataset,
            self.training,
            seed=self.seed,
            device=context.device,
            checkpointer=context.checkpointer,
        ):
            yield epoch_metrics
        metrics = _final_metrics(epoch_metrics) | compute_costs(network, dataset.shape).plain()
        metrics |= evaluate_validation(network, dataset, context.device)
        description = {**network_description(parents[0]), "heads": list(at)}
        metadata = {"data": facts(data).plain(), "assembly": description}
        return StageResult(packed_state_dict(network), metrics, metadata)


def _final_metrics(epoch_metrics: EpochMetrics) -> dict[str, float]:
    """The metrics of the last epoch, with the best accuracy of each head."""
    best_suffix = "_best_val_accuracy"
    metrics = {
        k: v for k, v in epoch_metrics.items() if k != "epoch" and not k.endswith(best_suffix)
    }
    best_metrics = {
        k.replace(best_suffix, "_val_accuracy"): v
        for k, v in epoch_metrics.items()
        if k.endswith(best_suffix)
    }
    return metrics | best_metrics


def has_heads(stage: Stage) -> bool:
    """Whether the network that a stage makes has heads."""
    continues_parent = (
        stage.operation.kind == "train" and getattr(stage.operation, "network", None) is None
    )
    return isinstance(stage.operation, AttachHeads) or (
        continues_parent and has_heads(stage.parents[0])
    )


def make_heads_stage(label: str, teacher: Stage, operation: AttachHeads, data: DataConfig) -> Stage:
    """The stage that adds heads to the network of ``teacher``.

    Raises:
        ConfigError: no network, an unknown block, or ``data`` without labels.
    """
    teacher.require_network("teacher", "that could have heads")
    if data.augment.noise:
        message = "heads need labels, but data.augment.noise leaves none; set it to false"
        raise ConfigError([Problem("teacher", message)])
    if operation.at != "stages":
        require_known_blocks("at", operation.at, map_shapes_of(teacher))
    return Stage(label, operation, data, (teacher,))


def map_shapes_of(stage: Stage) -> Mapping[str, Shape] | None:
    """Shapes of the blocks with feature maps; None if they are unknown before the run."""
    spec: Any = getattr(stage.operation, "network", None)
    if isinstance(stage.operation, AttachHeads):
        return map_shapes_of(stage.parents[0])
    if spec is None:
        return None
    about = facts(stage.data)
    network, _ = sketch_and_cuts(canonical_json(spec.plain()), about.shape, about.classes)
    return maps(network, about.shape)


def head_blocks_of(stage: Stage) -> Sequence[str] | None:
    """Blocks with heads in the network of ``stage``; None if unknown before the run."""
    if isinstance(stage.operation, AttachHeads):
        map_shapes = map_shapes_of(stage)
        at = stage.operation.at
        return (stage_ends(map_shapes) if map_shapes else None) if at == "stages" else at
    return head_blocks_of(stage.parents[0]) if has_heads(stage) else None


def require_known_blocks(
    field: Literal["at", "weights"], names: Sequence[str], available: Collection[str] | None
) -> None:
    """Refuse names that are not among ``available``, if that is known.

    Raises:
        ConfigError: one problem per name.
    """
    noun = "block with a feature map" if field == "at" else "head"
    problems = [
        Problem(field, unknown_message(noun, name, available))
        for name in names
        if available and name not in available
    ]
    if problems:
        raise ConfigError(problems)
