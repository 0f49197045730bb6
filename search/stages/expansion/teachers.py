"""What several kinds of stage check of objectives and teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stillhouse.methods.core.objective.objective import METHODS, Objective
from stillhouse.methods.core.training.train import Training
from stillhouse.search.stages.core.stage import Stage
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.domains import Domain
from stillhouse.spaces.config.problems import ConfigError, Problem
from stillhouse.spaces.modules.image_view import ImageView
from stillhouse.spaces.network_spec import NetworkSpec

UNUSED_TEACHERS_MESSAGE = "names teachers, but no method of the objective uses them"
_FIRST_PARENT_TEACHES = {"boundary", "neighbourhood", "heads", "invert"}
"""Kinds of stage whose first parent teaches."""


def direct_teachers(student: Stage) -> tuple[Stage, ...]:
    """The parents that a trained network learns from."""
    if not isinstance(student.operation, TrainNetwork):
        return ()
    return student.parents[student.operation.num_leading_parents :]


def teachers_of(student: Stage) -> dict[str, Stage]:
    """Key -> stage of every network that teaches the student or one of its ancestors."""
    by_key: dict[str, Stage] = {}
    for stage in student.ancestors():
        is_taught = stage.operation.kind in _FIRST_PARENT_TEACHES
        teachers = stage.parents[:1] if is_taught else direct_teachers(stage)
        by_key |= {teacher.key: teacher for teacher in teachers}
    return by_key


def require_matching_teachers(objective: Objective | None, teachers: Sequence[Stage]) -> None:
    """Teachers and objective must fit each other.

    Raises:
        ConfigError: a method without a teacher, or teachers nobody listens to.
    """
    if objective is not None and objective.needs_teacher and not teachers:
        message = "has a method that needs a teacher, and `teachers:` names none"
        raise ConfigError([Problem("objective", message)])
    for teacher in teachers:
        teacher.require_network("teachers", "that could teach")
    if teachers and not uses_teachers(objective):
        raise ConfigError([Problem("teachers", UNUSED_TEACHERS_MESSAGE)])


def uses_teachers(objective: Objective | None) -> bool:
    """Whether any method of an objective, at whatever weight, listens to teachers."""
    return any(METHODS.load(name).needs_teacher for name in (objective.terms if objective else ()))


def with_subclasses(
    network: NetworkSpec, objective: Objective | None, subclasses: int | None = None
) -> NetworkSpec:
    """The network with every class split as is said, or else as the objective asks.

    Raises:
        ConfigError: one says this and the other that, or a method finds no class split.
    """
    asked_by_objective = objective.num_subclasses if objective else 1
    num_subclasses = subclasses or (
        network.subclasses if network.subclasses > 1 else asked_by_objective
    )
    if asked_by_objective not in (1, num_subclasses):
        message = (
            f"is {num_subclasses}, and the objective asks for {asked_by_objective}; "
            "give both the same"
        )
        raise ConfigError([Problem("subclasses", message)])
    if num_subclasses == 1 and objective and objective.methods_needing_subclasses:
        message = "splits no class, and the network has none either; set subclasses: 5 beside it"
        raise ConfigError(
            [Problem(f"objective.{objective.methods_needing_subclasses[0]}", message)]
        )
    return network.with_num_subclasses(num_subclasses)


def training_field_domain(stage_config: Any, path: tuple[str, ...]) -> Domain | None:
    """The domain beside the field at ``path`` of an entry with the fields of training."""
    match path:
        case ("objective", *rest) if stage_config.objective:
            objective_space: Mapping[str, Domain] = stage_config.objective.search_space()
            return objective_space.get(".".join(rest))
        case ("training", field):
            return Training.search_space().get(field)
        case ("network", field) if isinstance(stage_config.network, NetworkSpec):
            return type(stage_config.network.settings).search_space().get(field)
        case ("sees", field):
            return ImageView.search_space().get(field)
        case ("subclasses",):
            declared: Domain | None = type(stage_config).search_space().get("subclasses")
            return declared
    return None
