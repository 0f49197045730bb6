"""``do: chain``: teacher assistants, each taught by its predecessor (TAKD, Mirzadeh et al. 2020).

Every link is an ordinary ``train`` stage, and its key contains the keys of all links before it.
Chains with a common beginning therefore share these links, within a search and between searches.
With ``dense`` the teacher and all larger links teach every link (DGKD, Son et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import ExpandedStage, StageConfig
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.core.weights import WeightsSettings, as_weights
from stillhouse.search.stages.expansion import prerequisites
from stillhouse.search.stages.expansion.teachers import (
    require_matching_teachers,
    training_field_domain,
    with_subclasses,
)
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import Config, setting
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown_message
from stillhouse.spaces.network_spec import NetworkSpec


class Link(Config):
    """Changes of one link to the settings of its chain.

    A link with weights is pretrained: it is not trained here, and it teaches the next link.
    """

    objective: dict[str, Any] = setting(
        {}, "changes to the chain's objective; null removes a method"
    )
    training: dict[str, Any] = setting({}, "changes to the chain's training")
    weights: Annotated[WeightsSettings | None, BeforeValidator(as_weights)] = setting(
        None, "file of published weights, or {path, mean, std}; the link is not trained"
    )

    @model_validator(mode="after")
    def _require_ready_or_trained(self) -> Self:
        if self.weights and (self.objective or self.training):
            field = "objective" if self.objective else "training"
            raise ValueError(f"a link with weights is not trained; remove {field}")
        return self


class Chain(StageConfig):
    """An entry that trains assistants, largest first. An empty chain stands for its teacher."""

    teacher: str = setting(..., "the entry at the head of the chain")
    networks: tuple[NetworkSpec, ...] = setting((), "assistants, largest first")
    objective: Objective = setting(..., "objective of every link")
    training: Training = setting(Training(), "training of every link")
    links: dict[str, Link] = setting({}, "network name -> changes of that link")
    dense: bool = setting(
        False, "all earlier links teach every link, and all links teach the student"
    )

    def dependencies(self) -> tuple[str, ...]:
        return (self.teacher,)

    def expand(
        self, name: str, expanded_dependencies: Mapping[str, ExpandedStage], data: DataConfig
    ) -> ExpandedStage:
        chain_stages = list(expanded_dependencies[self.teacher].teaching_stages)
        num_teacher_stages = len(chain_stages)
        for spec in self.networks:
            teachers = tuple(chain_stages) if self.dense else (chain_stages[-1],)
            require_matching_teachers(self.objective, teachers)
            operation = self.link_operation(spec)
            if operation.weights:
                _require_weights_fit(operation.weights, spec, data)
            link_teachers = (
                prerequisites.expand(operation.objective, teachers) if operation.objective else ()
            )
            link = Stage(f"{name}/{spec.label}", operation, data, link_teachers)
            _require_smaller(link, chain_stages[-1])
            chain_stages.append(link)
        if self.dense or len(chain_stages) == num_teacher_stages:
            return ExpandedStage(tuple(chain_stages))
        return ExpandedStage((chain_stages[-1],))

    def has_weights(self, spec: NetworkSpec) -> bool:
        """Whether a link is pretrained, so that no training of it can be searched."""
        return spec.label in self.links and self.links[spec.label].weights is not None

    def link_operation(self, spec: NetworkSpec) -> TrainNetwork:
        """The operation of one link, with its own changes.

        Raises:
            ConfigError: with paths that begin with ``links``.
        """
        link = self.links.get(spec.label, Link())
        if link.weights:
            return TrainNetwork(network=spec, weights=link.weights.with_absolute_path())
        location = f"links.{spec.label}"
        objective = merge_settings(self.objective.plain(), link.objective)
        objective = {name: term for name, term in objective.items() if term is not None}
        training = merge_settings(self.training.plain(), link.training)
        link_objective = Objective.parse(objective, f"{location}.objective")
        return TrainNetwork(
            network=with_subclasses(spec, link_objective),
            objective=link_objective,
            training=Training.parse(training, f"{location}.training"),
            seed=self.seed,
        )

    def declared_domain(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("links", _, *rest):
                return training_field_domain(self, tuple(rest))
        return training_field_domain(self, path)

    def check_links(self, network_labels: tuple[str, ...]) -> None:
        """``links`` may name only networks that can be in the chain.

        Raises:
            ConfigError: another name, with the nearest match.
        """
        for name in self.links:
            if name not in network_labels:
                raise ConfigError(
                    [Problem(f"links.{name}", unknown_message("link", name, network_labels))]
                )


def _require_weights_fit(weights: WeightsSettings, spec: NetworkSpec, data: DataConfig) -> None:
    """Check that the file of a pretrained link fits its network.

    Raises:
        ConfigError: with paths from ``links`` on.
    """
    try:
        weights.require_fit(spec, data)
    except ConfigError as error:
        raise error.with_prefix(f"links.{spec.label}") from None


def merge_settings(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` updated by ``changes``, recursively for mappings."""
    result = dict(base)
    for key, value in changes.items():
        base_value = result.get(key)
        are_mappings = isinstance(base_value, Mapping) and isinstance(value, Mapping)
        result[key] = (
            merge_settings(base_value, value) if are_mappings and base_value is not None else value
        )
    return result


def _require_smaller(link: Stage, previous: Stage) -> None:
    size, limit = (
        stage.operation.costs(stage.data).get("parameters", math.inf) for stage in (link, previous)
    )
    if size >= limit:
        message = (
            f"a chain must shrink: {link.label} has {size:,.0f} parameters, "
            f"{previous.label} before it has {limit:,.0f}; order them largest first"
        )
        raise ConfigError([Problem("networks", message)])
