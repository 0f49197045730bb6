"""Teachers of a stage, and checks of objectives and teachers that several kinds share."""

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
        ConfigError: a method lacks a teacher, or no method uses the teachers.
    """
    if objective is not None and objective.needs_teacher and not teachers:
        message = "has a method that needs a teacher, and `teachers:` names none"
        raise ConfigError([Problem("objective", message)])
    for teacher in teachers:
        teacher.require_network("teachers", "that could teach")
    if teachers and not uses_teachers(objective):
        raise ConfigError([Problem("teachers", UNUSED_TEACHERS_MESSAGE)])


def uses_teachers(objective: Objective | None) -> bool:
    """Whether any method of an objective uses teachers, whatever its weight."""
    return any(METHODS.load(name).needs_teacher for name in (objective.terms if objective else ()))


def with_subclasses(
    network: NetworkSpec, objective: Objective | None, subclasses: int | None = None
) -> NetworkSpec:
    """The network with ``subclasses`` per class, or as many as the objective requires.

    Raises:
        ConfigError: the two contradict each other, or a method needs split classes.
    """
    required_subclasses = objective.num_subclasses if objective else 1
    num_subclasses = subclasses or (
        network.subclasses if network.subclasses > 1 else required_subclasses
    )
    if required_subclasses not in (1, num_subclasses):
        message = (
            f"is {num_subclasses}, but the objective requires {required_subclasses}; "
            "set both to the same number"
        )
        raise ConfigError([Problem("subclasses", message)])
    if num_subclasses == 1 and objective and objective.methods_needing_subclasses:
        message = "needs a network that splits classes; set subclasses: 5 in this entry"
        raise ConfigError(
            [Problem(f"objective.{objective.methods_needing_subclasses[0]}", message)]
        )
    return network.with_num_subclasses(num_subclasses)


def training_field_domain(stage_config: Any, path: tuple[str, ...]) -> Domain | None:
    """The domain declared for the field at ``path`` of an entry that trains networks."""
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
