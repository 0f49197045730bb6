"""Neighbourhoods as stages: PCA at a cut, and the distillation of one replacement."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.runtime.checkpointing import json_to_tensor, tensor_to_json
from stillhouse.methods.core.runtime.seeding import seeded_torch
from stillhouse.methods.core.training.neighbourhood import Neighbourhood, NeighbourhoodTraining
from stillhouse.methods.core.training.synthetic_inputs import (
    INPUTS_HELP,
    InputKind,
    blocks_with_batch_statistics,
    gaussian_images,
)
from stillhouse.methods.core.training.train import Training
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import BlockReplacement, load_network
from stillhouse.search.stages.core.stage import (
    COST_NAMES,
    BatchOperation,
    EpochMetrics,
    Operation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.config.base import canonical_json, setting
from stillhouse.spaces.cost import compute_costs
from stillhouse.spaces.modules.cuts import cut_positions, narrowed_shape
from stillhouse.spaces.modules.network import Network, Shape
from stillhouse.spaces.modules.pca import PCAExpand, PCAProject, RunningCovariance


class LearnBoundary(Operation):
    """Compute the principal components of a teacher's feature at one cut."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "boundary"

    cut: int = setting(..., "position of the cut: number of blocks before it", ge=1)
    images: int = setting(1024, "number of training images", ge=1)
    inputs: InputKind = setting("data", INPUTS_HELP)

    def identity(self) -> dict[str, Any]:
        identity = self.plain()
        if self.inputs == "data":  # older keys have no such field
            del identity["inputs"]
        return identity

    def metric_names(self, stage: Stage) -> frozenset[str]:
        return frozenset(("variance_in_half",))

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        dataset, teacher = open_data(data), load_network(parents[0]).to(context.device)
        channels = cut_positions(teacher, dataset.shape)[self.cut][0]
        covariance, num_seen = RunningCovariance(channels, context.device), 0
        uses_statistics = self.inputs == "statistics"
        front_blocks = (
            blocks_with_batch_statistics(teacher, self.cut)
            if uses_statistics
            else teacher.span(0, self.cut)
        )
        batches = dataset.train_batches(batch_size=256, epoch=0, seed=0, device=context.device)
        with torch.no_grad(), seeded_torch(context.device, 0):
            for batch in batches:
                images = batch.images[: self.images - num_seen]
                if self.inputs != "data":
                    images = gaussian_images(images, teacher)
                covariance.update(front_blocks((images - teacher.mean) / teacher.std))
                num_seen += len(images)
                if num_seen >= self.images:
                    break
        basis, mean, variances = covariance.principal_components()
        explained_by_half = variances[: max(1, channels // 2)].sum() / variances.sum().clamp(
            min=1e-30
        )
        yield {"epoch": 1.0}
        tensors = {"basis": basis, "mean": mean, "variances": variances}
        return StageResult(tensors, {"variance_in_half": float(explained_by_half)})


class DistilNeighbourhood(BatchOperation):
    """Distil one replacement on the teacher's features at its two ends."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "neighbourhood"

    start: int = setting(..., "first replaced block", ge=1)
    stop: int = setting(..., "first block after it", ge=2)
    block: BlockSpec = setting(..., "block that replaces them")
    enter: float = setting(1.0, "input width, as a share of the teacher's channels", gt=0.0, le=1.0)
    leave: float = setting(
        1.0, "output width, as a share of the teacher's channels", gt=0.0, le=1.0
    )
    training: Training = setting(Training(), "training of the replacement")
    inputs: InputKind = setting("data", INPUTS_HELP)
    seed: int = setting(0, "seed of initialisation and order of examples", ge=0)

    @property
    def replacement(self) -> BlockReplacement:
        """The replacement and its interval."""
        return BlockReplacement(self.start, self.stop, self.block, self.enter, self.leave)

    @property
    def epochs(self) -> int:
        return self.training.epochs

    @property
    def batch_key(self) -> str:
        return canonical_json(
            {"training": self.training.identity(), "inputs": self.inputs, "seed": self.seed}
        )

    def identity(self) -> dict[str, Any]:
        identities = {"block": self.block.identity(), "training": self.training.identity()}
        return {**self.plain(), **identities}

    def metric_names(self, stage: Stage) -> frozenset[str]:
        return COST_NAMES | {"train_loss", "nmse", "kl", "val_accuracy", "accuracy_drop"}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        batch = self.run_batch([self], data, [parents], context)
        while True:
            try:
                yield next(batch)[0]
            except StopIteration as stop:
                result: StageResult = stop.value[0]
                return result

    @classmethod
    def run_batch(
        cls,
        all_operations: Sequence[Operation],
        data: DataConfig,
        parents: Sequence[Sequence[Artifact]],
        context: StageContext,
    ) -> Generator[list[EpochMetrics], None, list[StageResult]]:
        operations = [operation for operation in all_operations if isinstance(operation, cls)]
        dataset, teacher = open_data(data), load_network(parents[0][0])
        cut_shapes = cut_positions(teacher, dataset.shape)
        neighbourhoods = [
            operation._build_neighbourhood(teacher, cut_shapes, operation_parents)
            for operation, operation_parents in zip(operations, parents, strict=True)
        ]
        distillation = NeighbourhoodTraining(
            teacher,
            neighbourhoods,
            dataset,
            operations[0].training,
            inputs=operations[0].inputs,
            seed=operations[0].seed,
            device=context.device,
        )
        curves: list[list[EpochMetrics]] = [[] for _ in operations]
        if (
            context.checkpointer is not None
            and (tensors := context.checkpointer.load()) is not None
        ):
            distillation.load(tensors)
            curves = tensor_to_json(tensors["curves"])
            for epoch_metrics in zip(*curves, strict=True):
                yield [dict(metrics) for metrics in epoch_metrics]
        while distillation.epoch < operations[0].epochs:
            metrics_of_all = distillation.run_epoch()
            for curve, metrics in zip(curves, metrics_of_all, strict=True):
                curve.append({k: v for k, v in metrics.items() if math.isfinite(v)})
            # A batch is expensive to lose, so it is saved after every epoch.
            if context.checkpointer is not None and distillation.epoch < operations[0].epochs:
                context.checkpointer.save(
                    {**distillation.state(), "curves": json_to_tensor(curves)}
                )
            yield [curve[-1] for curve in curves]
        scores = distillation.scores()
        return [
            operation._stage_result(
                neighbourhood,
                score,
                curve,
                narrowed_shape(cut_shapes[operation.start], operation.enter),
            )
            for operation, neighbourhood, score, curve in zip(
                operations, neighbourhoods, scores, curves, strict=True
            )
        ]

    def _build_neighbourhood(
        self, teacher: Network, cut_shapes: Mapping[int, Shape], parents: Sequence[Artifact]
    ) -> Neighbourhood:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            module = self.replacement.build(teacher, cut_shapes)
        if self.block.name == "kept":
            module.requires_grad_(False)
        bases_by_cut = {
            artifact.record.settings["cut"]: artifact.tensors for artifact in parents[1:]
        }
        identity = nn.Identity()
        return Neighbourhood(
            start=self.start,
            stop=self.stop,
            module=module,
            project_input=make_projection(
                PCAProject, bases_by_cut, self.start, cut_shapes, self.enter
            )
            or identity,
            project_target=make_projection(
                PCAProject, bases_by_cut, self.stop, cut_shapes, self.leave
            )
            or identity,
            expand_output=make_projection(
                PCAExpand, bases_by_cut, self.stop, cut_shapes, self.leave
            )
            or identity,
        )

    def _stage_result(
        self,
        neighbourhood: Neighbourhood,
        scores: EpochMetrics,
        curve: Sequence[EpochMetrics],
        input_shape: Shape,
    ) -> StageResult:
        diverged_epochs = [
            i + 1 for i, epoch_metrics in enumerate(curve) if "train_loss" not in epoch_metrics
        ]
        metrics = compute_costs(neighbourhood.module, input_shape).plain()
        if diverged_epochs or not all(map(math.isfinite, scores.values())):
            reason = (
                f"diverged in epoch {diverged_epochs[0]}"
                if diverged_epochs
                else "its scores are not finite"
            )
            return StageResult({}, metrics, {"diverged": f"{reason}; lower the learning rate"})
        last_metrics = {k: v for k, v in (curve[-1] if curve else {}).items() if k != "epoch"}
        return StageResult(neighbourhood.module.state_dict(), {**metrics, **last_metrics, **scores})


def make_projection(
    projection_type: type[PCAProject],
    bases_by_cut: Mapping[int, Mapping[str, torch.Tensor]],
    cut: int,
    cut_shapes: Mapping[int, Shape],
    width: float,
) -> nn.Module | None:
    """Projection onto (or back from) the leading components; None at full width."""
    if width >= 1.0:
        return None
    tensors = bases_by_cut[cut]
    return projection_type(
        tensors["basis"][: narrowed_shape(cut_shapes[cut], width)[0]], tensors["mean"]
    )
