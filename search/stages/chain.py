"""``do: chain``: teacher assistants, each taught by the one before it (TAKD, Mirzadeh et al. 2020).

Every link is an ordinary ``train`` stage whose key holds the keys of all before it: chains with a
common beginning share those links, in one search and between searches. With ``dense`` every link
learns from the teacher and all larger links at once (DGKD, Son et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, model_validator

from stillhouse.methods.core.data.config import DataConfig
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.config import Entry, Kind
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.core.weights import Weights, as_weights
from stillhouse.search.stages.expansion.prerequisites import brought
from stillhouse.search.stages.expansion.teachers import check_taught, declared_field, split_network
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.base import Config, knob
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem, unknown
from stillhouse.spaces.network_spec import NetworkSpec


class Link(Config):
    """What one link does differently from the chain's common settings.

    A link with weights is a ready network: nothing teaches it, and it teaches the next.
    """

    objective: dict[str, Any] = knob({}, "changes to the chain's objective; null: not this method")
    training: dict[str, Any] = knob({}, "changes to the chain's training")
    weights: Annotated[Weights | None, BeforeValidator(as_weights)] = knob(
        None, "file of published weights, or {path, mean, std}: the link is used as it is"
    )

    @model_validator(mode="after")
    def _ready_or_taught(self) -> Self:
        if self.weights and (self.objective or self.training):
            field = "objective" if self.objective else "training"
            raise ValueError(f"a link with weights is not trained; leave {field} out")
        return self


class Chain(Kind):
    """An entry that makes a chain of assistants, largest first. An empty chain is its teacher."""

    teacher: str = knob(..., "the entry at the head of the chain")
    networks: tuple[NetworkSpec, ...] = knob((), "assistants, largest first")
    objective: Objective = knob(..., "what every link learns from")
    training: Training = knob(Training(), "how every link is trained")
    links: dict[str, Link] = knob({}, "network name -> what that link does differently")
    dense: bool = knob(False, "every link, and who learns from the chain, has all before it teach")

    def needs(self) -> tuple[str, ...]:
        return (self.teacher,)

    def lay_out(self, name: str, needed: Mapping[str, Entry], data: DataConfig) -> Entry:
        made = list(needed[self.teacher].members)
        before = len(made)
        for spec in self.networks:
            teachers = tuple(made) if self.dense else (made[-1],)
            check_taught(self.objective, teachers)
            work = self.work(spec)
            if work.weights:
                _require_fit(work.weights, spec, data)
            taught_by = brought(work.objective, teachers) if work.objective else ()
            link = Stage(f"{name}/{spec.label}", work, data, taught_by)
            _check_smaller(link, made[-1])
            made.append(link)
        if self.dense or len(made) == before:
            return Entry(tuple(made))
        return Entry((made[-1],))

    def ready(self, spec: NetworkSpec) -> bool:
        """Whether a link has weights of its own, and so no training that could be searched."""
        return spec.label in self.links and self.links[spec.label].weights is not None

    def work(self, spec: NetworkSpec) -> TrainNetwork:
        """The work of one link, with what it does differently.

        Raises:
            ConfigError: with paths from ``links`` on.
        """
        link = self.links.get(spec.label, Link())
        if link.weights:
            return TrainNetwork(network=spec, weights=link.weights.from_anywhere())
        place = f"links.{spec.label}"
        objective = merged(self.objective.plain(), link.objective)
        objective = {name: told for name, told in objective.items() if told is not None}
        training = merged(self.training.plain(), link.training)
        taught = Objective.parse(objective, f"{place}.objective")
        return TrainNetwork(
            network=split_network(spec, taught),
            objective=taught,
            training=Training.parse(training, f"{place}.training"),
            seed=self.seed,
        )

    def declared(self, path: tuple[str, ...]) -> Domain | None:
        match path:
            case ("links", _, *rest):
                return declared_field(self, tuple(rest))
        return declared_field(self, path)

    def check_links(self, possible: tuple[str, ...]) -> None:
        """``links`` may name only networks that can be in the chain.

        Raises:
            ConfigError: another name, with the nearest match.
        """
        for name in self.links:
            if name not in possible:
                raise ConfigError([Problem(f"links.{name}", unknown("link", name, possible))])


def _require_fit(weights: Weights, spec: NetworkSpec, data: DataConfig) -> None:
    """A ready link's file holds its network.

    Raises:
        ConfigError: with paths from ``links`` on.
    """
    try:
        weights.require_fit(spec, data)
    except ConfigError as error:
        raise error.under(f"links.{spec.label}") from None


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, mapping by mapping."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if both and inner is not None else value
    return result


def _check_smaller(link: Stage, before: Stage) -> None:
    size, limit = (s.work.costs(s.data).get("parameters", math.inf) for s in (link, before))
    if size >= limit:
        message = (
            f"a chain must shrink: {link.label} has {size:,.0f} parameters, "
            f"{before.label} before it has {limit:,.0f}; order them largest first"
        )
        raise ConfigError([Problem("networks", message)])
