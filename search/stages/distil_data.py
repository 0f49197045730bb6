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
from stillhouse.methods.core.data.facts import facts, lexicon, space
from stillhouse.methods.core.synthesis.distilling.distil import distil
from stillhouse.methods.core.synthesis.distilling.settings import Distilling
from stillhouse.methods.core.synthesis.distilling.unroll import require_no_statistics
from stillhouse.methods.core.training.evaluation import validated_names
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import APART, Bench, Product, Report, Stage, Work
from stillhouse.search.stages.ops.train import fresh
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.network_spec import NetworkSpec

WORDS = 30
"""Of every distilled sentence that its record holds."""


class DistilData(Work, Distilling):
    """Learn examples, labels and step sizes by which networks of one kind are trained."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "distil_data"
    makes_images: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True

    network: NetworkSpec = knob(..., "that is trained in a few steps")
    seed: int = knob(0, "of the examples' noise and the networks", ge=0)

    @property
    def epochs(self) -> int:
        return self.reports

    def identity(self) -> dict[str, Any]:
        told = self.plain() | {"network": self.network.identity()}
        for_fresh_networks = {"networks", "judged_on"}
        return {
            k: v for k, v in told.items() if self.start == "random" or k not in for_fresh_networks
        }

    def again(self, number: int) -> DistilData:
        return self.model_copy(update={"seed": self.seed + APART * number})

    def figures(self, stage: Stage) -> frozenset[str]:
        found = validated_names(stage.data, self.network.subclasses)
        if found and self.start == "random":
            found |= {"val_accuracy_spread"}
        return found | {"lr", "train_loss", "rate", "examples"}

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        distilled, figures = yield from distil(
            lambda: fresh(self.network, data),
            open_data(data),
            self,
            seed=self.seed,
            device=bench.device,
            saves=bench.saves,
        )
        figures["examples"] = float(len(distilled.images))
        told = {"data": facts(data).plain(), "steps": self.steps} | _said(data, distilled.images)
        return Product(distilled._asdict(), figures, told)


def _said(data: DataConfig, images: Tensor) -> dict[str, list[str]]:
    """The first words of each example, in the nearest words; nothing of images."""
    if space(data) is None:
        return {}
    return {"sentences": lexicon(data).nearest_words(images[:, :, :WORDS])}


class Distil(Kind, Distilling):
    """An entry that makes a small data set for one kind of network."""

    network: NetworkSpec = knob(..., "name of a network without batch norm, or {name: {settings}}")

    @property
    def repeated(self) -> bool:
        return True  # the first network is the student's, so both go by one seed

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        about = facts(data)
        require_no_statistics(self.network.sketch(about.shape, about.classes))
        if beyond := [label for label in self.classes or () if not 0 <= label < about.classes]:
            message = f"has {beyond[0]}, and classes go from 0 to {about.classes - 1}"
            raise ConfigError([Problem("classes", message)])
        if data.augment.noise and self.begun_as != "noise":
            field = "image_start" if self.images == "learnt" else "images"
            raise ConfigError([Problem(field, "noise has none of a class; leave it out")])
        self.check_split(about.sizes["validation"])
        told = {field: getattr(self, field) for field in Distilling.model_fields}
        work = DistilData(**told, network=self.network, seed=self.seed)
        return Entry((Stage(name, work, data),))

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("network", field):
                return type(self.network.settings).space().get(field)
            case (field,):
                return type(self).space().get(field)
        return None
