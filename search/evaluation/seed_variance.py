"""Variance of predictions between students that differ only in their seed.

The ensemble view of distillation (Park et al. 2020): it works like bagging where it lowers this.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from stillhouse.methods.core.data.base.splits import Split
from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset, open_data
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.artifacts.store import Library
from stillhouse.search.assembly.network import load_network
from stillhouse.search.evaluation.finalists import Finalist
from stillhouse.search.stages.core.stage import (
    EpochMetrics,
    Operation,
    Stage,
    StageContext,
    StageResult,
)
from stillhouse.spaces.modules.network import Network

_BATCH_SIZE = 512


class MeasureVariance(Operation):
    """The variance of each class's probability over the parents, summed over the classes; its
    mean over the validation split, or over the training split where nothing is held out. A pure
    number: the figure ``variance``; there are no tensors."""

    kind: ClassVar[str] = "variance"

    def metric_names(self, stage: Stage) -> frozenset[str]:
        return frozenset(("variance",))

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], context: StageContext
    ) -> Generator[EpochMetrics, None, StageResult]:
        dataset = open_data(data)
        running_mean = squared_deviations = torch.zeros(())
        for count, parent in enumerate(parents, 1):  # one network at a time is on the device
            probabilities = _probabilities(
                load_network(parent).to(context.device), dataset, context.device
            )
            deviation = probabilities - running_mean
            running_mean = running_mean + deviation / count
            squared_deviations = squared_deviations + deviation * (
                probabilities - running_mean
            )  # Welford 1962
        yield {"epoch": 1.0}
        variance_per_image = squared_deviations.sum(dim=1) / (len(parents) - 1)
        return StageResult({}, {"variance": variance_per_image.mean().item()})


def _probabilities(network: Network, dataset: Dataset, device: torch.device) -> Tensor:
    """Of every image, in their order: [N, classes], in float64 on the host."""
    split: Split = "validation" if dataset.facts.sizes["validation"] else "train"
    batches = dataset.batches(split, batch_size=_BATCH_SIZE, device=device)
    with torch.no_grad():
        probabilities = [
            network(batch.images, ()).logits.double().softmax(dim=1).cpu() for batch in batches
        ]
    return torch.cat(probabilities)


def variance_stages(finalists: Sequence[Finalist], library: Library) -> Mapping[str, Stage]:
    """Role -> the stage that measures it, of those with two students or more in the library."""
    stages_by_role = {}
    for finalist in finalists:
        students = [graph.student for graph in finalist.graphs.values()]
        available_students = tuple(student for student in students if library.has(student.key))
        if len(available_students) > 1:
            label = f"variance ({finalist.role})"
            stages_by_role[finalist.role] = Stage(
                label, MeasureVariance(), available_students[0].data, available_students
            )
    return stages_by_role
