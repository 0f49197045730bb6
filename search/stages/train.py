"""``do: train``: one network, learning from labels, from teachers, or ready-made from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.synthesis.distilling.unroll import require_no_statistics
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.core.weights import Weights, as_weights
from stillhouse.search.stages.expansion.prerequisites import brought
from stillhouse.search.stages.expansion.teachers import (
    check_taught,
    declared_field,
    hears,
    split_network,
)
from stillhouse.search.stages.ops.forgetting import learnt_before
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import knob
from stillhouse.spaces.config.domains import Choice, Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.image_view import View
from stillhouse.spaces.network_spec import NetworkSpec


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
    images: str | None = knob(
        None,
        "an entry that makes the images it learns on (do: invert); of do: distil_data said as "
        "data: {distilled: ENTRY} too",
    )
    few_steps: bool = knob(
        False, "of distilled data, take the very steps that were distilled, and learn nothing else"
    )
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

    @model_validator(mode="before")
    @classmethod
    def _distilled(cls, told: Any) -> Any:
        """``data: {distilled: ENTRY}`` is ``images: ENTRY``, said where data is said."""
        data = told.get("data") if isinstance(told, Mapping) else None
        if not isinstance(data, Mapping) or data.get("distilled") is None:
            return told
        if told.get("images"):
            raise ConfigError([Problem("images", "has no place beside data.distilled; keep one")])
        rest = {name: value for name, value in data.items() if name != "distilled"}
        return {**told, "data": rest or None, "images": data["distilled"]}

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
        if self.weights and network:
            self.weights.from_anywhere().require_fit(network, data)
        began = _network_of("start", needed[self.start]) if self.start else ()
        if began and self.anew:
            _check_float(began[0])
        images = _images_of(needed[self.images], data) if self.images else ()
        for made in images:
            self._check_soft(made)
        work = TrainNetwork(
            network=network and split_network(network, self.objective, self.subclasses),
            anew=self.anew,
            before=learnt_before(began[0], data) if began and not self.anew else (),
            objective=self.objective,
            training=self.training,
            weights=self.weights and self.weights.from_anywhere(),
            images=self.images is not None,
            few_steps=self.few_steps,
            seed=self.seed,
        )
        parents = (*began, *images, *brought(self.objective, teachers))
        return Entry((Stage(name, work, data, parents),))

    def _contradictions(self) -> Iterator[Problem]:
        """Fields that are missing, or do not go together."""
        if self.objective is None and self.weights is None and not self.few_steps:
            yield Problem("objective", "is missing; name methods, or give weights")
        if self.few_steps and (self.objective or self.weights):
            what = "objective" if self.objective else "weights"
            yield Problem(
                what, "has no place beside few_steps: true, which takes given steps alone"
            )
        if self.few_steps and not self.images:
            yield Problem("few_steps", "needs data: {distilled: ENTRY}, whose steps it takes")
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

    def _check_soft(self, made: Stage) -> None:
        """What goes with soft labels and steps, or without.

        Raises:
            ConfigError: a method that needs hard labels, or steps where none were distilled.
        """
        if not made.work.soft_labels and self.few_steps:
            message = f"{made.label} is a {made.work.kind}, which distils no steps to take"
            raise ConfigError([Problem("few_steps", message)])
        if self.few_steps and self.network:
            about = facts(made.data)
            require_no_statistics(self.network.sketch(about.shape, about.classes))
        hard = self.objective.needs_hard_labels if self.objective else ()
        if made.work.soft_labels and hard:
            message = f"needs hard labels, and those of {made.label} are soft; use cross_entropy"
            raise ConfigError([Problem(f"objective.{hard[0]}", message)])

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        return declared_field(self, path)


def _network_of(field: str, entry: Entry) -> tuple[Stage, ...]:
    if not entry.stage.work.makes_network:
        message = f"{entry.stage.label} is a {entry.stage.work.kind}, no network to go on from"
        raise ConfigError([Problem(field, message)])
    return (entry.stage,)


def _check_float(stage: Stage) -> None:
    """A quantised network's architecture has lost its batch norm, and is none to begin with.

    Raises:
        ConfigError: the stage makes one.
    """
    if any(before.work.kind == "quantise" for before in stage.descent()):
        message = (
            f"has no place beside start: {stage.label}, which is quantised; "
            "start from what was quantised there"
        )
        raise ConfigError([Problem("anew", message)])


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
