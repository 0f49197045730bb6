"""Training as a stage: a network from its seed, from weights or from another stage, and taught."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, ClassVar

import torch

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.dataset import Dataset, open_data
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.data.replaced_train_split import MadeData
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.synthesis.distilling.distilled_set import Distilled, take_steps
from stillhouse.methods.core.training.evaluation import validated, validated_names
from stillhouse.methods.core.training.train import Training, kept_report, train, training_names
from stillhouse.search.artifacts.artifact import Artifact
from stillhouse.search.assembly.frozen import frozen
from stillhouse.search.assembly.network import anew, described, rebuild
from stillhouse.search.stages.core.stage import APART, COSTS, Bench, Product, Report, Stage, Work
from stillhouse.search.stages.core.weights import Weights
from stillhouse.search.stages.ops.forgetting import forgetting_names, forgotten
from stillhouse.spaces.compression.quantisation import stored
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.cost import costs, network_costs
from stillhouse.spaces.modules.network import Network
from stillhouse.spaces.network_spec import NetworkSpec
from stillhouse.spaces.weights import load_published, read_state


class TrainNetwork(Work):
    """Build a network, start it from its seed or from weights, and teach it."""

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "train"
    makes_network: ClassVar[bool] = True

    network: NetworkSpec | None = knob(None, "the network; none: the first parent's, to go on from")
    anew: bool = knob(False, "the first parent's architecture alone, its weights from the seed")
    before: tuple[DataConfig, ...] = knob((), "what the first parent learnt from, where other data")
    objective: Objective | None = knob(None, "what it learns from; none with weights alone")
    training: Training = knob(Training(), "how it is trained")
    weights: Weights | None = knob(None, "published weights to start from, or to use as they are")
    images: bool = knob(False, "on the images of a parent, the one before the teachers")
    few_steps: bool = knob(False, "only the steps that were distilled with those images")
    seed: int = knob(0, "initialisation, order of examples, dropout", ge=0)

    @property
    def epochs(self) -> int:
        return self.training.epochs if self.objective else 1

    @property
    def workers(self) -> int:
        return self.training.workers if self.objective else 1

    @property
    def beside(self) -> tuple[NetworkSpec, ...]:
        """Networks that are trained along."""
        return ()

    def identity(self) -> dict[str, Any]:
        start = None
        if self.weights:
            start = {**self.weights.plain(), "path": self.weights.digest()}
        taught: dict[str, Any] | None = None
        if self.objective:
            taught = {"objective": self.objective.identity(), "training": self.training.identity()}
            if self.training.keep == "best":
                # Records made without this hold the figures of the last epoch.
                taught["figures"] = "of the best epoch"
        told: dict[str, Any] = {
            "network": self.network.identity() if self.network else None,
            "weights": start,
            "taught": taught,
            "seed": self.seed if self.objective or not self.weights else 0,
        }
        said = {"anew": self.anew, "images": self.images, "few_steps": self.few_steps}
        told |= {name: True for name, is_so in said.items() if is_so}
        if self.before:
            told["before"] = [data.judged_on() for data in self.before]
        return told

    @property
    def leading(self) -> int:
        """How many parents come before the teachers."""
        return (self.network is None) + self.images

    def again(self, number: int) -> TrainNetwork | None:
        if self.objective is None and not self.few_steps:
            return None
        return self.model_copy(update={"seed": self.seed + APART * number})

    def split(self, subclasses: int, added: Mapping[str, Any]) -> TrainNetwork | None:
        if self.objective is None or self.network is None or self.weights is not None:
            return None
        objective = Objective.parse({**added, **self.objective.plain()})
        network = self.network.split(subclasses)
        return self.model_copy(update={"network": network, "objective": objective})

    @property
    def subclasses(self) -> int | None:
        return self.network.subclasses if self.network else None

    @property
    def goes_on(self) -> bool:
        return self.network is None and not self.anew

    def result_so_far(self, curve: Sequence[Report]) -> Report:
        return kept_report(curve, self.training) if self.objective else curve[-1]

    def costs(self, data: DataConfig) -> dict[str, float]:
        if self.network is None:
            return {}
        about = facts(data)
        return network_costs(self.network.plain(), about.shape, about.classes).plain()

    def figures(self, stage: Stage) -> frozenset[str]:
        teachers = len(stage.parents) > self.leading
        found = validated_names(stage.data, stage.subclasses, teachers=teachers)
        if self.objective:
            found |= training_names(self.objective, self.training, validates=bool(found))
        if self.before:
            found |= forgetting_names(self.before)
        return found | COSTS

    def run(
        self, data: DataConfig, parents: Sequence[Artifact], bench: Bench
    ) -> Generator[Report, None, Product]:
        dataset = open_data(data)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self._start(data) if self.network else self._go_on(parents[0])
        began = () if self.network else parents[:1]
        if self.images:
            dataset = trained_on(dataset, parents[len(began)])
        teachers = [frozen(parent, bench.device) for parent in parents[self.leading :]]
        curve: list[Report] = []
        if self.objective:
            for report in train(
                network,
                teachers,
                self.objective,
                dataset,
                self.training,
                seed=self.seed,
                device=bench.device,
                saves=bench.saves,
                peers=self._peers(dataset.config),
                worker=bench.worker,
            ):
                curve.append(report)
                yield report
        else:
            if self.few_steps:
                take_steps(network.to(bench.device), *distilled_in(parents[len(began)], bench))
            curve.append({"epoch": 1.0} | validated(network, dataset, bench.device, teachers))
            yield curve[-1]
        about = facts(data)
        figures = {k: v for k, v in self.result_so_far(curve).items() if k != "epoch"}
        figures |= self.costs(data) or costs(network, about.shape).plain()
        if self.before:
            figures |= forgotten(self.before, rebuild(parents[0]), network, bench.device)
        told: dict[str, Any] = {"data": about.plain()}
        for parent in began:
            told["assembly"] = described(parent)
        return Product(stored(network), figures, told)

    def _peers(self, data: DataConfig) -> list[Network]:
        """The networks that learn beside it, as they start."""
        return []

    def _go_on(self, parent: Artifact) -> Network:
        return anew(parent) if self.anew else rebuild(parent)

    def _start(self, data: DataConfig) -> Network:
        assert self.network is not None
        network = fresh(self.network, data)
        if self.weights is None:
            return network
        state = read_state(self.weights.path)
        network = load_published(network, self.network.settings, state, self.weights.path)
        if self.weights.mean and self.weights.std:
            network = network.normalised_with(self.weights.mean, self.weights.std)
        return network


def fresh(spec: NetworkSpec, data: DataConfig) -> Network:
    """A network for a data set, normalising as that says, from torch's global generator."""
    about = facts(data)
    mean, std = spec.normalisation(about.mean, about.std)
    return spec.build(about.shape, about.classes).normalised_with(mean, std)


def trained_on(dataset: Dataset, made: Artifact) -> Dataset:
    """The data set with images that a stage made in place of its training split."""
    return MadeData(dataset, made.tensors["images"], made.tensors["labels"], made.record.key)


def distilled_in(made: Artifact, bench: Bench) -> tuple[Distilled, int]:
    """The examples that a stage distilled, and how many steps a pass over them has."""
    names = Distilled._fields
    found = Distilled(*(made.tensors[name].to(bench.device) for name in names))
    return found, int(made.record.facts["steps"])
