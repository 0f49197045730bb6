"""``do: train``: one network, learning from labels, from teachers, or ready-made from a file."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator

from methods.core.data.config import DataConfig
from methods.core.data.dataset import Dataset, open_data
from methods.core.data.facts import facts
from methods.core.data.made import MadeData
from methods.core.evaluation import evaluate
from methods.core.objective import METHODS, Objective
from methods.core.teacher import FrozenTeacher
from methods.core.training import Training, train
from search.assembly import anew, described, rebuild
from search.brought import brought
from search.forgetting import forgotten, learnt_before
from search.frozen import frozen
from search.kind import Entry, Kind
from search.stage import APART, Artifact, Bench, Product, Report, Stage, Work
from search.weights import Weights, as_weights
from spaces.config import knob
from spaces.cost import costs, network_costs
from spaces.domain import Choice, Domain
from spaces.network import Network
from spaces.problem import ConfigError, Problem
from spaces.spec import NetworkSpec
from spaces.view import View
from spaces.weights import load_published, read_state


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
    seed: int = knob(0, "initialisation, order of examples, dropout", ge=0)

    @property
    def epochs(self) -> int:
        return self.training.epochs if self.objective else 1

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
            taught = {"objective": self.objective.identity(), "training": self.training.plain()}
        told: dict[str, Any] = {
            "network": self.network.identity() if self.network else None,
            "weights": start,
            "taught": taught,
            "seed": self.seed if self.objective or not self.weights else 0,
        }
        said = {"anew": self.anew, "images": self.images}
        told |= {name: True for name, is_so in said.items() if is_so}
        if self.before:
            told["before"] = [data.judged_on() for data in self.before]
        return told

    @property
    def leading(self) -> int:
        """How many parents come before the teachers."""
        return (self.network is None) + self.images

    def again(self, number: int) -> TrainNetwork | None:
        if self.objective is None:
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

    def costs(self, data: DataConfig) -> dict[str, float]:
        if self.network is None:
            return {}
        about = facts(data)
        return network_costs(self.network.plain(), about.shape, about.classes).plain()

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
        report: Report = {}
        if self.objective:
            for report in self._taught(network, teachers, dataset, bench):
                yield report
        else:
            scores = evaluate(
                network, dataset, "validation", device=bench.device, teachers=teachers
            )
            report = {"epoch": 1.0} | {f"val_{name}": value for name, value in scores.items()}
            yield report
        about = facts(data)
        figures = {k: v for k, v in report.items() if k != "epoch"}
        figures |= self.costs(data) or costs(network, about.shape).plain()
        if self.before:
            figures |= forgotten(self.before, rebuild(parents[0]), network, bench.device)
        told: dict[str, Any] = {"data": about.plain()}
        for parent in began:
            told["assembly"] = described(parent)
        return Product(network.state_dict(), figures, told)

    def _taught(
        self,
        network: Network,
        teachers: Sequence[FrozenTeacher],
        dataset: Dataset,
        bench: Bench,
        peers: Sequence[Network] = (),
    ) -> Iterator[Report]:
        assert self.objective is not None
        return train(
            network,
            teachers,
            self.objective,
            dataset,
            self.training,
            seed=self.seed,
            device=bench.device,
            saves=bench.saves,
            peers=peers,
        )

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


class Train(Kind):
    """An entry that makes one network."""

    network: NetworkSpec | None = knob(None, "name of a network, or {name: {settings}}")
    sees: View | None = knob(
        None, "the view it is given of images its teachers see whole: {grey: true, size: 16}"
    )
    start: str | None = knob(
        None, "an entry whose network it goes on from, instead of one of its own"
    )
    anew: bool = knob(
        False, "of the entry it starts from, take the architecture alone, and new weights"
    )
    images: str | None = knob(None, "an entry that makes the images it learns on (do: invert)")
    subclasses: int | None = knob(
        None,
        "into how many every class is split; none: as its objective asks, else into none",
        Choice((2, 5, 10)),
        ge=1,
    )
    teachers: tuple[str, ...] = knob((), "entries it learns from")
    objective: Objective | None = knob(None, "weighted sum of methods")
    training: Training = knob(Training(), "optimiser, epochs, schedule")
    weights: Annotated[Weights | None, BeforeValidator(as_weights)] = knob(
        None, "file of published weights to start from, or {path, mean, std}"
    )

    def needs(self) -> tuple[str, ...]:
        return (*filter(None, (self.start, self.images)), *self.teachers)

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        if problems := tuple(self._contradictions()):
            raise ConfigError(problems)
        # A search may choose an objective without any method that has a teacher.
        heard = self.teachers if hears(self.objective) else ()
        teachers = [member for teacher in heard for member in needed[teacher].members]
        check_taught(self.objective, teachers)
        network = self.network.seeing(self.sees) if self.network else None
        began = _network_of("start", needed[self.start]) if self.start else ()
        images = _images_of(needed[self.images], data) if self.images else ()
        work = TrainNetwork(
            network=network and split_network(network, self.objective, self.subclasses),
            anew=self.anew,
            before=learnt_before(began[0], data) if began and not self.anew else (),
            objective=self.objective,
            training=self.training,
            weights=self.weights and self.weights.from_anywhere(),
            images=self.images is not None,
            seed=self.seed,
        )
        parents = (*began, *images, *brought(self.objective, teachers))
        return Entry((Stage(name, work, data, parents),))

    def _contradictions(self) -> Iterator[Problem]:
        """Fields that are missing, or do not go together."""
        if self.objective is None and self.weights is None:
            yield Problem("objective", "is missing; name methods, or give weights")
        if self.network is None and not self.start:
            yield Problem("network", "is missing; name one, or an entry to start from")
        if self.network is not None and self.start:
            message = f"has no place beside start: {self.start}, whose network it goes on from"
            yield Problem("network", message)
        if self.anew and not self.start:
            message = "needs start: <an entry>, whose architecture gets new weights"
            yield Problem("anew", message)
        if self.anew and self.weights is not None:
            yield Problem("weights", "has no place beside anew: true; leave one out")
        seen = self.sees or (self.network and self.network.sees)
        if (self.sees and self.start) or (seen and self.weights):
            message = "is for a new network; leave it out beside weights and beside start"
            yield Problem("sees", message)
        if self.subclasses and self.start:
            message = "has no place beside start, whose network has its own; leave it out"
            yield Problem("subclasses", message)

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        return declared_field(self, path)


UNHEARD = "names teachers, but no method of the objective listens to them"


def check_taught(objective: Objective | None, teachers: Sequence[Stage]) -> None:
    """Teachers and objective must fit each other.

    Raises:
        ConfigError: a method without a teacher, or teachers nobody listens to.
    """
    if objective is not None and objective.needs_teacher and not teachers:
        message = "has a method that needs a teacher, and `teachers:` names none"
        raise ConfigError([Problem("objective", message)])
    for teacher in teachers:
        if not teacher.work.makes_network:
            message = f"{teacher.label} is a {teacher.work.kind}, no network that could teach"
            raise ConfigError([Problem("teachers", message)])
    if teachers and not hears(objective):
        raise ConfigError([Problem("teachers", UNHEARD)])


def hears(objective: Objective | None) -> bool:
    """Whether any method of an objective, at whatever weight, listens to teachers."""
    return any(METHODS.load(name).needs_teacher for name in (objective.terms if objective else ()))


def split_network(
    network: NetworkSpec, objective: Objective | None, subclasses: int | None = None
) -> NetworkSpec:
    """The network with every class split as is said, or else as the objective asks.

    Raises:
        ConfigError: one says this and the other that, or a method finds no class split.
    """
    asked = objective.splits if objective else 1
    said = subclasses or (network.subclasses if network.subclasses > 1 else asked)
    if asked not in (1, said):
        message = f"is {said}, and the objective asks for {asked}; give both the same"
        raise ConfigError([Problem("subclasses", message)])
    if said == 1 and objective and objective.needs_subclasses:
        message = "splits no class, and the network has none either; set subclasses: 5 beside it"
        raise ConfigError([Problem(f"objective.{objective.needs_subclasses[0]}", message)])
    return network.split(said)


def declared_field(entry: Any, path: tuple[str, ...]) -> Domain | None:
    """The domain beside the field at ``path`` of an entry with the fields of training."""
    match path:
        case ("objective", *rest) if entry.objective:
            found: Mapping[str, Domain] = entry.objective.space()
            return found.get(".".join(rest))
        case ("training", field):
            return Training.space().get(field)
        case ("network", field) if isinstance(entry.network, NetworkSpec):
            return type(entry.network.settings).space().get(field)
        case ("sees", field):
            return View.space().get(field)
        case ("subclasses",) if isinstance(entry, Train):
            return Train.space()["subclasses"]
    return None


def _network_of(field: str, entry: Entry) -> tuple[Stage, ...]:
    if not entry.stage.work.makes_network:
        message = f"{entry.stage.label} is a {entry.stage.work.kind}, no network to go on from"
        raise ConfigError([Problem(field, message)])
    return (entry.stage,)


def _images_of(entry: Entry, data: DataConfig) -> tuple[Stage, ...]:
    """The stage whose images take the place of the training split of ``data``."""
    made = entry.stage
    if not made.work.makes_images:
        message = f"{made.label} is a {made.work.kind}, which makes no images to learn on"
        raise ConfigError([Problem("images", message)])
    if data.augment.noise:
        raise ConfigError([Problem("images", "has no place beside data.augment.noise: true")])
    for what, theirs, own in (
        ("shape", facts(made.data).shape, facts(data).shape),
        ("classes", facts(made.data).classes, facts(data).classes),
    ):
        if theirs != own:
            message = f"the {what} of {made.label}'s images, {theirs}, is not this stage's, {own}"
            raise ConfigError([Problem("images", message)])
    return (made,)
