"""What several kinds of stage check of objectives and teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.stage import Stage
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.image_view import View
from stillhouse.spaces.network_spec import NetworkSpec

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
        case ("subclasses",):
            declared: Domain | None = type(entry).space().get("subclasses")
            return declared
    return None
