"""Variance: how much students say differently that differ in their seed alone.

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
from stillhouse.search.assembly.network import rebuild
from stillhouse.search.evaluation.finalists import Contender
from stillhouse.search.stages.core.stage import Bench, Product, Report, Stage, Work
from stillhouse.spaces.modules.network import Network

_BATCH = 512


class MeasureVariance(Work):
    """The variance of each class's probability over the parents, summed over the classes; its
    mean over the validation split, or over the training split where nothing is held out. A pure
    number: the figure ``variance``; there are no tensors."""

    kind: ClassVar[str] = "variance"

    def figures(self, stage: Stage) -> frozenset[str]:
        return frozenset(("variance",))

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset = open_data(data)
        mean = squares = torch.zeros(())
        for number, parent in enumerate(parents, 1):  # one network at a time is on the device
            said = _probabilities(rebuild(parent).to(bench.device), dataset, bench.device)
            off = said - mean
            mean = mean + off / number
            squares = squares + off * (said - mean)  # Welford 1962
        yield {"epoch": 1.0}
        each = squares.sum(dim=1) / (len(parents) - 1)
        return Product({}, {"variance": each.mean().item()})


def _probabilities(network: Network, dataset: Dataset, device: torch.device) -> Tensor:
    """Of every image, in their order: [N, classes], in float64 on the host."""
    split: Split = "validation" if dataset.facts.sizes["validation"] else "train"
    batches = dataset.batches(split, batch_size=_BATCH, device=device)
    with torch.no_grad():
        said = [network(batch.images, ()).logits.double().softmax(dim=1).cpu() for batch in batches]
    return torch.cat(said)


def variances(made: Sequence[Contender], library: Library) -> Mapping[str, Stage]:
    """Role -> the stage that measures it, of those with two students or more in the library."""
    found = {}
    for each in made:
        students = [recipe.student for recipe in each.recipes.values()]
        there = tuple(student for student in students if library.has(student.key))
        if len(there) > 1:
            label = f"variance ({each.role})"
            found[each.role] = Stage(label, MeasureVariance(), there[0].data, there)
    return found
