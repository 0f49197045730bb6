"""The works behind neighbourhoods: a cut's principal channels, and one replacement distilled."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import open_data
from stillhouse.methods.core.runtime.checkpointing import read, written
from stillhouse.methods.core.runtime.seeding import seeded
from stillhouse.methods.core.training.neighbourhood import Distillation, Neighbourhood
from stillhouse.methods.core.training.synthetic_inputs import (
    MEANING,
    Inputs,
    gaussian,
    normed_by_batch,
)
from stillhouse.methods.core.training.train import Training
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import Piece, rebuild
from stillhouse.search.stages.core.stage import COSTS, Bench, Product, Report, Stage, Work
from stillhouse.spaces.block_spec import BlockSpec
from stillhouse.spaces.config.base import canonical_json, knob
from stillhouse.spaces.cost import costs
from stillhouse.spaces.modules.cuts import narrowed, positions
from stillhouse.spaces.modules.network import Network, Shape
from stillhouse.spaces.modules.pca import Moments, Narrow, Widen


class LearnBoundary(Work):
    """The principal channels of a teacher's feature at one cut, from what it looks at."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "boundary"

    cut: int = knob(..., "between which blocks: the number of blocks before it", ge=1)
    images: int = knob(1024, "training images looked at", ge=1)
    inputs: Inputs = knob("data", MEANING)

    def identity(self) -> dict[str, Any]:
        told = self.plain()
        if self.inputs == "data":  # as it was called when there was nothing else
            del told["inputs"]
        return told

    def figures(self, stage: Stage) -> frozenset[str]:
        return frozenset(("variance_in_half",))

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset, teacher = open_data(data), rebuild(parents[0]).to(bench.device)
        channels = positions(teacher, dataset.shape)[self.cut][0]
        moments, seen = Moments(channels, bench.device), 0
        drawn = self.inputs == "statistics"
        front = normed_by_batch(teacher, self.cut) if drawn else teacher.span(0, self.cut)
        batches = dataset.train_batches(batch_size=256, epoch=0, seed=0, device=bench.device)
        with torch.no_grad(), seeded(bench.device, 0):
            for batch in batches:
                images = batch.images[: self.images - seen]
                if self.inputs != "data":
                    images = gaussian(images, teacher)
                moments.add(front((images - teacher.mean) / teacher.std))
                seen += len(images)
                if seen >= self.images:
                    break
        basis, mean, variances = moments.principal()
        half = variances[: max(1, channels // 2)].sum() / variances.sum().clamp(min=1e-30)
        yield {"epoch": 1.0}
        tensors = {"basis": basis, "mean": mean, "variances": variances}
        return Product(tensors, {"variance_in_half": float(half)})


class DistilNeighbourhood(Work):
    """One replacement, distilled on the teacher's features at its two ends."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "neighbourhood"

    start: int = knob(..., "first block replaced", ge=1)
    stop: int = knob(..., "first block after it", ge=2)
    block: BlockSpec = knob(..., "what takes their place")
    enter: float = knob(1.0, "share of the teacher's channels that enter it", gt=0.0, le=1.0)
    leave: float = knob(1.0, "share of the teacher's channels that leave it", gt=0.0, le=1.0)
    training: Training = knob(Training(), "how it is distilled")
    inputs: Inputs = knob("data", MEANING)
    seed: int = knob(0, "initialisation and order of examples", ge=0)

    @property
    def piece(self) -> Piece:
        """Where it goes and what it is."""
        return Piece(self.start, self.stop, self.block, self.enter, self.leave)

    @property
    def epochs(self) -> int:
        return self.training.epochs

    @property
    def together(self) -> str:
        return canonical_json(
            {"training": self.training.identity(), "inputs": self.inputs, "seed": self.seed}
        )

    def identity(self) -> dict[str, Any]:
        told = {"block": self.block.identity(), "training": self.training.identity()}
        return {**self.plain(), **told}

    def figures(self, stage: Stage) -> frozenset[str]:
        return COSTS | {"train_loss", "nmse", "kl", "val_accuracy", "accuracy_drop"}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        making = self.run_together([self], data, [parents], bench)
        while True:
            try:
                yield next(making)[0]
            except StopIteration as end:
                product: Product = end.value[0]
                return product

    @classmethod
    def run_together(
        cls,
        works: Sequence[Work],
        data: DataConfig,
        parents: Sequence[Sequence[Artifact]],
        bench: Bench,
    ) -> Generator[list[Report], None, list[Product]]:
        own = [work for work in works if isinstance(work, cls)]
        dataset, teacher = open_data(data), rebuild(parents[0][0])
        at = positions(teacher, dataset.shape)
        made = [work._start(teacher, at, p) for work, p in zip(own, parents, strict=True)]
        learning = Distillation(
            teacher,
            made,
            dataset,
            own[0].training,
            inputs=own[0].inputs,
            seed=own[0].seed,
            device=bench.device,
        )
        curves: list[list[Report]] = [[] for _ in own]
        if bench.saves is not None and (tensors := bench.saves.load()) is not None:
            learning.load(tensors)
            curves = read(tensors["curves"])
            for told in zip(*curves, strict=True):
                yield [dict(report) for report in told]
        while learning.epoch < own[0].epochs:
            reports = learning.run_epoch()
            for curve, report in zip(curves, reports, strict=True):
                curve.append({k: v for k, v in report.items() if math.isfinite(v)})
            # Many stages at once are a lot to lose: they are saved after every epoch.
            if bench.saves is not None and learning.epoch < own[0].epochs:
                bench.saves.store({**learning.state(), "curves": written(curves)})
            yield [curve[-1] for curve in curves]
        scores = learning.scores()
        return [
            work._product(each, score, curve, narrowed(at[work.start], work.enter))
            for work, each, score, curve in zip(own, made, scores, curves, strict=True)
        ]

    def _start(
        self, teacher: Network, at: Mapping[int, Shape], parents: Sequence[Artifact]
    ) -> Neighbourhood:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            module = self.piece.build(teacher, at)
        if self.block.kind == "kept":
            module.requires_grad_(False)
        bases = {p.record.identity["work"]["cut"]: p.tensors for p in parents[1:]}
        identity = nn.Identity()
        return Neighbourhood(
            start=self.start,
            stop=self.stop,
            module=module,
            enter=boundary(Narrow, bases, self.start, at, self.enter) or identity,
            leave=boundary(Narrow, bases, self.stop, at, self.leave) or identity,
            widen=boundary(Widen, bases, self.stop, at, self.leave) or identity,
        )

    def _product(
        self,
        each: Neighbourhood,
        score: Report,
        curve: Sequence[Report],
        inputs: Shape,
    ) -> Product:
        lost = [i + 1 for i, report in enumerate(curve) if "train_loss" not in report]
        figures = costs(each.module, inputs).plain()
        if lost or not all(map(math.isfinite, score.values())):
            reason = f"diverged in epoch {lost[0]}" if lost else "its scores are no finite numbers"
            return Product({}, figures, {"diverged": f"{reason}; lower the learning rate"})
        last = {k: v for k, v in (curve[-1] if curve else {}).items() if k != "epoch"}
        return Product(each.module.state_dict(), {**figures, **last, **score})


def boundary(
    kind: type[Narrow],
    bases: Mapping[int, Mapping[str, torch.Tensor]],
    cut: int,
    at: Mapping[int, Shape],
    width: float,
) -> nn.Module | None:
    """The projection onto (or back from) a share of the principal channels; none at full width."""
    if width >= 1.0:
        return None
    tensors = bases[cut]
    return kind(tensors["basis"][: narrowed(at[cut], width)[0]], tensors["mean"])
