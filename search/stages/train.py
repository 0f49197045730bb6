"""``do: train``: one network, trained on labels or by teachers, or pretrained from a file."""

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
    """An entry that builds one network."""

    network: NetworkSpec | None = setting(None, "name of a network, or {name: {settings}}")
    sees: ImageView | None = setting(
        None, "view of the images, which its teachers see whole: {grey: true, size: 16}"
    )
    start: str | None = setting(
        None, "an entry whose trained network it starts from, instead of `network`"
    )
    anew: bool = setting(False, "take only the architecture of `start`, with new weights")
    images: str | None = setting(
        None,
        "an entry that makes the training images (do: invert, or do: distil_data, for which "
        "data: {distilled: ENTRY} means the same)",
    )
    few_steps: bool = setting(
        False, "with distilled data: take exactly the distilled steps, without other training"
    )
    subclasses: int | None = setting(
        None,
        "subclasses per class; none: as many as the objective requires, or no split",
        Choice((2, 5, 10)),
        ge=1,
    )
    teachers: tuple[str, ...] = setting((), "entries that teach it")
    objective: Objective | None = setting(None, "weighted sum of methods")
    training: Training = setting(Training(), "optimiser, epochs, schedule")
    weights: Annotated[WeightsSettings | None, BeforeValidator(as_weights)] = setting(
        None, "file of published weights to start from, or {path, mean, std}"
    )

    @model_validator(mode="before")
    @classmethod
    def _move_distilled_to_images(cls, entry_data: Any) -> Any:
        """``data: {distilled: ENTRY}`` means ``images: ENTRY``."""
        data = entry_data.get("data") if isinstance(entry_data, Mapping) else None
        if not isinstance(data, Mapping) or data.get("distilled") is None:
            return entry_data
        if entry_data.get("images"):
            raise ConfigError(
                [Problem("images", "cannot be combined with data.distilled; keep one")]
            )
        remaining_data = {name: value for name, value in data.items() if name != "distilled"}
        return {**entry_data, "data": remaining_data or None, "images": data["distilled"]}

    def dependencies(self) -> tuple[str, ...]:
        return (*filter(None, (self.start, self.images)), *self.teachers)

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        if problems := tuple(self._contradictions()):
            raise ConfigError(problems)
        # A search may choose an objective in which no method uses a teacher.
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
            (expanded_dependencies[self.start].stage.require_network("start", "to start from"),)
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
        """Fields that are missing or contradict each other."""
        if self.objective is None and self.weights is None and not self.few_steps:
            yield Problem("objective", "is missing; name methods, or give weights")
        if self.few_steps and (self.objective or self.weights):
            field = "objective" if self.objective else "weights"
            yield Problem(
                field,
                "cannot be combined with few_steps: true, which takes only the distilled steps",
            )
        if self.few_steps and not self.images:
            yield Problem("few_steps", "needs data: {distilled: ENTRY} for the steps")
        if self.network is None and not self.start:
            yield Problem("network", "is missing; name one, or an entry to start from")
        if self.network is not None and self.start:
            message = (
                f"cannot be combined with start: {self.start}, whose network it trains further"
            )
            yield Problem("network", message)
        if self.anew and not self.start:
            message = "needs start: <an entry>, whose architecture gets new weights"
            yield Problem("anew", message)
        if self.anew and self.weights is not None:
            yield Problem("weights", "cannot be combined with anew: true; remove one")
        view = self.sees or (self.network and self.network.sees)
        if (self.sees and self.start) or (view and self.weights):
            message = (
                "needs a new network, so it cannot be combined with weights or start; remove one"
            )
            yield Problem("sees", message)
        if self.subclasses and self.start:
            message = "cannot be combined with start, whose network decides it; remove it"
            yield Problem("subclasses", message)

    def _require_label_kind(self, image_stage: Stage) -> None:
        """Check that objective and ``few_steps`` fit the labels of the images.

        Raises:
            ConfigError: a method needs hard labels, or there are no distilled steps.
        """
        has_soft_labels = (
            isinstance(image_stage.operation, ImageOperation)
            and image_stage.operation.has_soft_labels
        )
        if not has_soft_labels and self.few_steps:
            kind = image_stage.operation.kind
            message = f"{image_stage.label} is a {kind}, which has no distilled steps"
            raise ConfigError([Problem("few_steps", message)])
        if self.few_steps and self.network:
            about = facts(image_stage.data)
            require_no_batch_norm(self.network.build_for_shapes(about.shape, about.classes))
        hard_label_methods = self.objective.methods_needing_hard_labels if self.objective else ()
        if has_soft_labels and hard_label_methods:
            message = (
                f"needs hard labels, but {image_stage.label} has soft labels; use cross_entropy"
            )
            raise ConfigError([Problem(f"objective.{hard_label_methods[0]}", message)])

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        return training_field_domain(self, path)


def _refuse_quantised(stage: Stage) -> None:
    """Refuse a quantised network: its architecture has lost its batch norm.

    Raises:
        ConfigError: the stage or one in its warm-start chain quantises.
    """
    if any(ancestor.operation.kind == "quantise" for ancestor in stage.warm_start_chain()):
        message = (
            f"cannot be combined with start: {stage.label}, which is quantised; "
            "start from the network before quantisation"
        )
        raise ConfigError([Problem("anew", message)])


def _require_images(expanded: ExpandedStage, data: DataConfig) -> tuple[Stage, ...]:
    """The stage whose images replace the training split of ``data``."""
    image_stage = expanded.stage
    if not isinstance(image_stage.operation, ImageOperation):
        kind = image_stage.operation.kind
        message = f"{image_stage.label} is a {kind}, which makes no training images"
        raise ConfigError([Problem("images", message)])
    if data.augment.noise:
        raise ConfigError([Problem("images", "cannot be combined with data.augment.noise: true")])
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
