"""``do: train``: one network, learning from labels, from teachers, or ready-made from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.data.facts import facts
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.synthesis.distilling.unroll import require_no_batch_norm
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import ImageOperation, Stage
from stillhouse.search.stages.core.weights import WeightsSettings, as_weights
from stillhouse.search.stages.expansion import prerequisites
from stillhouse.search.stages.expansion.teachers import (
    require_matching_teachers,
    training_field_domain,
    uses_teachers,
    with_subclasses,
)
from stillhouse.search.stages.ops.forgetting import earlier_data
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import setting
from stillhouse.spaces.config.domains import Choice, Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.image_view import ImageView
from stillhouse.spaces.network_spec import NetworkSpec


class Train(StageConfig):
    """An entry that makes one network."""

    network: NetworkSpec | None = setting(None, "name of a network, or {name: {settings}}")
    sees: ImageView | None = setting(
        None, "the view it is given of images its teachers see whole: {grey: true, size: 16}"
    )
    start: str | None = setting(
        None, "an entry whose network it goes on from, instead of one of its own"
    )
    anew: bool = setting(
        False, "of the entry it starts from, take the architecture alone, and new weights"
    )
    images: str | None = setting(
        None,
        "an entry that makes the images it learns on (do: invert); of do: distil_data said as "
        "data: {distilled: ENTRY} too",
    )
    few_steps: bool = setting(
        False, "of distilled data, take the very steps that were distilled, and learn nothing else"
    )
    subclasses: int | None = setting(
        None,
        "into how many every class is split; none: as its objective asks, else into none",
        Choice((2, 5, 10)),
        ge=1,
    )
    teachers: tuple[str, ...] = setting((), "entries it learns from")
    objective: Objective | None = setting(None, "weighted sum of methods")
    training: Training = setting(Training(), "optimiser, epochs, schedule")
    weights: Annotated[WeightsSettings | None, BeforeValidator(as_weights)] = setting(
        None, "file of published weights to start from, or {path, mean, std}"
    )

    @model_validator(mode="before")
    @classmethod
    def _move_distilled_to_images(cls, entry_data: Any) -> Any:
        """``data: {distilled: ENTRY}`` is ``images: ENTRY``, said where data is said."""
        data = entry_data.get("data") if isinstance(entry_data, Mapping) else None
        if not isinstance(data, Mapping) or data.get("distilled") is None:
            return entry_data
        if entry_data.get("images"):
            raise ConfigError([Problem("images", "has no place beside data.distilled; keep one")])
        remaining_data = {name: value for name, value in data.items() if name != "distilled"}
        return {**entry_data, "data": remaining_data or None, "images": data["distilled"]}

    def dependencies(self) -> tuple[str, ...]:
        return (*filter(None, (self.start, self.images)), *self.teachers)

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        if problems := tuple(self._contradictions()):
            raise ConfigError(problems)
        # A search may choose an objective without any method that has a teacher.
        teacher_names = self.teachers if uses_teachers(self.objective) else ()
        teachers = [
            member
            for teacher in teacher_names
            for member in expanded_dependencies[teacher].teaching_stages
        ]
        require_matching_teachers(self.objective, teachers)
        network = self.network.with_view(self.sees) if self.network else None
        if self.weights and network:
            self.weights.with_absolute_path().require_fit(network, data)
        start_stages = (
            (expanded_dependencies[self.start].stage.require_network("start", "to go on from"),)
            if self.start
            else ()
        )
        if start_stages and self.anew:
            _refuse_quantised(start_stages[0])
        image_stages = (
            _require_images(expanded_dependencies[self.images], data) if self.images else ()
        )
        for image_stage in image_stages:
            self._require_label_kind(image_stage)
        operation = TrainNetwork(
            network=network and with_subclasses(network, self.objective, self.subclasses),
            anew=self.anew,
            before=earlier_data(start_stages[0], data) if start_stages and not self.anew else (),
            objective=self.objective,
            training=self.training,
            weights=self.weights and self.weights.with_absolute_path(),
            images=self.images is not None,
            few_steps=self.few_steps,
            seed=self.seed,
        )
        parents = (*start_stages, *image_stages, *prerequisites.expand(self.objective, teachers))
        return ExpandedStage((Stage(name, operation, data, parents),))

    def _contradictions(self) -> Iterator[Problem]:
        """Fields that are missing, or do not go together."""
        if self.objective is None and self.weights is None and not self.few_steps:
            yield Problem("objective", "is missing; name methods, or give weights")
        if self.few_steps and (self.objective or self.weights):
            field = "objective" if self.objective else "weights"
            yield Problem(
                field, "has no place beside few_steps: true, which takes given steps alone"
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
        view = self.sees or (self.network and self.network.sees)
        if (self.sees and self.start) or (view and self.weights):
            message = "is for a new network; leave it out beside weights and beside start"
            yield Problem("sees", message)
        if self.subclasses and self.start:
            message = "has no place beside start, whose network has its own; leave it out"
            yield Problem("subclasses", message)

    def _require_label_kind(self, image_stage: Stage) -> None:
        """What goes with soft labels and steps, or without.

        Raises:
            ConfigError: a method that needs hard labels, or steps where none were distilled.
        """
        has_soft_labels = (
            isinstance(image_stage.operation, ImageOperation)
            and image_stage.operation.has_soft_labels
        )
        if not has_soft_labels and self.few_steps:
            kind = image_stage.operation.kind
            message = f"{image_stage.label} is a {kind}, which distils no steps to take"
            raise ConfigError([Problem("few_steps", message)])
        if self.few_steps and self.network:
            about = facts(image_stage.data)
            require_no_batch_norm(self.network.build_for_shapes(about.shape, about.classes))
        hard_label_methods = self.objective.methods_needing_hard_labels if self.objective else ()
        if has_soft_labels and hard_label_methods:
            message = (
                f"needs hard labels, and those of {image_stage.label} are soft; use cross_entropy"
            )
            raise ConfigError([Problem(f"objective.{hard_label_methods[0]}", message)])

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        return training_field_domain(self, path)


def _refuse_quantised(stage: Stage) -> None:
    """A quantised network's architecture has lost its batch norm, and is none to begin with.

    Raises:
        ConfigError: the stage makes one.
    """
    if any(ancestor.operation.kind == "quantise" for ancestor in stage.warm_start_chain()):
        message = (
            f"has no place beside start: {stage.label}, which is quantised; "
            "start from what was quantised there"
        )
        raise ConfigError([Problem("anew", message)])


def _require_images(expanded: ExpandedStage, data: DataConfig) -> tuple[Stage, ...]:
    """The stage whose images take the place of the training split of ``data``."""
    image_stage = expanded.stage
    if not isinstance(image_stage.operation, ImageOperation):
        kind = image_stage.operation.kind
        message = f"{image_stage.label} is a {kind}, which makes no images to learn on"
        raise ConfigError([Problem("images", message)])
    if data.augment.noise:
        raise ConfigError([Problem("images", "has no place beside data.augment.noise: true")])
    for property_name, image_value, data_value in (
        ("shape", facts(image_stage.data).shape, facts(data).shape),
        ("classes", facts(image_stage.data).classes, facts(data).classes),
    ):
        if image_value != data_value:
            message = (
                f"the {property_name} of {image_stage.label}'s images, {image_value}, "
                f"is not this stage's, {data_value}"
            )
            raise ConfigError([Problem("images", message)])
    return (image_stage,)
