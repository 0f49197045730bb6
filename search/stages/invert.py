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
from stillhouse.methods.core.synthesis.inversion import Inversion, invert, require_statistics
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.network import outline, rebuild
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import Bench, Product, Report, Stage, Work
from stillhouse.spaces.config.base import canonical_json, knob
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem

FIGURES = ("loss", "cross_entropy", "norms", "teacher_accuracy")
"""Of the images; means over the batches."""


class InvertTeacher(Work, Inversion):
    """Descend from noise to images that a teacher takes for its classes."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "invert"
    makes_images: ClassVar[bool] = True

    seed: int = knob(0, "of the noise", ge=0)

    @property
    def epochs(self) -> int:
        return -(-self.images // self.batch_size)

    def figures(self, stage: Stage) -> frozenset[str]:
        return frozenset(FIGURES)

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        about = facts(data)
        running = invert(
            rebuild(parents[0]),
            about.shape,
            about.classes,
            self,
            seed=self.seed,
            device=bench.device,
            saves=bench.saves,
        )
        curve: list[Report] = []
        while True:
            try:
                curve.append(next(running))
                yield curve[-1]
            except StopIteration as end:
                made = end.value
                break
        figures = {name: sum(report[name] for report in curve) / len(curve) for name in FIGURES}
        told = {"data": about.plain()}
        return Product({"images": made.images, "labels": made.labels}, figures, told)


class Invert(Kind, Inversion):
    """An entry that makes images from a teacher."""

    teacher: str = knob(..., "the entry whose network is inverted; it needs batch norm")

    def needs(self) -> tuple[str, ...]:
        return (self.teacher,)

    @property
    def repeated(self) -> bool:
        return False  # what students are taught with is kept, as their teacher is

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        teacher = needed[self.teacher].stage
        if not teacher.work.makes_network:
            message = f"{teacher.label} is a {teacher.work.kind}, no network to invert"
            raise ConfigError([Problem("teacher", message)])
        if (spec := getattr(teacher.work, "network", None)) is not None:
            about = facts(data)
            told = canonical_json(spec.plain())
            require_statistics(outline(told, about.shape, about.classes)[0])
        told_here = {field: getattr(self, field) for field in Inversion.model_fields}
        work = InvertTeacher(**told_here, seed=self.seed)
        return Entry((Stage(name, work, data, (teacher,)),))

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        return type(self).space().get(path[0]) if len(path) == 1 else None
