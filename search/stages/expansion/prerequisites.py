"""Prerequisites of methods: the teachers of an objective become what its methods require.

The settings of a method return the requirement as a plain value from ``requirements()``, see
``stillhouse.methods.core.config.requirements``. ``_EXPANDERS`` maps the type of a requirement to a
function from the teachers to the teachers that the method learns from. New teachers are ordinary
stages with labels below the label of their teacher: planned, shared through the library and built
once.

A new requirement takes three steps: a frozen dataclass in
``methods/core/config/requirements.py``, the method's settings that return it, and an entry in
``_EXPANDERS``. An expander adds nothing if the teachers already meet the requirement. It raises
``ConfigError`` with paths relative to the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stillhouse.methods.core.config.requirements import (
    HeadedTeachers,
    SeveralTeachers,
    SplitTeachers,
    TeacherRequirement,
)
from stillhouse.methods.core.objective.objective import Objective
from stillhouse.search.stages.core.stage import Replicable, Stage
from stillhouse.search.stages.ops.heads import (
    AttachHeads,
    has_heads,
    head_blocks_of,
    make_heads_stage,
    require_known_blocks,
)
from stillhouse.search.stages.ops.train import TrainNetwork
from stillhouse.spaces.config.problems import ConfigError, Problem

Teachers = tuple[Stage, ...]
TeacherExpander = Callable[[Any, Teachers], Teachers]


def expand(objective: Objective | None, teachers: Sequence[Stage]) -> Teachers:
    """The teachers after every requirement of the methods of ``objective`` is met.

    Raises:
        ConfigError: these teachers cannot meet a requirement.
    """
    expanded = tuple(teachers)
    requirements = objective.requirements() if objective and expanded else ()
    order = list(_EXPANDERS)
    for method, requirement in sorted(requirements, key=lambda item: order.index(type(item[1]))):
        try:
            expanded = _EXPANDERS[type(requirement)](requirement, expanded)
        except ConfigError as error:
            raise error.with_prefix(f"objective.{method}") from None
    return expanded


def _expand_several(requirement: SeveralTeachers, teachers: Teachers) -> Teachers:
    """Replicas of the teachers in turn, each with other seeds, until there are enough."""
    return (*teachers, *_replicas(teachers, requirement.count - len(teachers)))


def _replicas(teachers: Teachers, count: int) -> Iterator[Stage]:
    for i in range(count):
        teacher = teachers[i % len(teachers)]
        yield replica_of(teacher, 1 + i // len(teachers))


def _attach_heads(requirement: HeadedTeachers, teachers: Teachers) -> Teachers:
    """Every teacher with heads; a teacher that has some stays as it is."""
    settings = {"at": requirement.at, "training": requirement.training, "seed": requirement.seed}
    operation = AttachHeads.parse(settings)
    headed_teachers = []
    for teacher in teachers:
        if not has_heads(teacher):
            teacher = make_heads_stage(f"{teacher.label}/heads", teacher, operation, teacher.data)
        headed_teachers.append(teacher)
        require_known_blocks("weights", requirement.named, head_blocks_of(teacher))
    return tuple(headed_teachers)


def replica_of(stage: Stage, index: int) -> Stage:
    """``stage`` with other seeds: ``teacher/2`` is the first replica.

    Raises:
        ConfigError: it makes no random choice, like a pretrained network.
    """
    parents = stage.parents
    operation = stage.operation.replica(index) if isinstance(stage.operation, Replicable) else None
    if isinstance(operation, AttachHeads):
        parents = tuple(replica_of(parent, index) for parent in parents)
    if operation is None:
        message = (
            f"{stage.label} is pretrained, so every replica would be equal; name as many entries "
            "under teachers, or set 1"
        )
        raise ConfigError([Problem("teachers", message)])
    return replace(stage, label=f"{stage.label}/{index + 1}", operation=operation, parents=parents)


def _split_teachers(requirement: SplitTeachers, teachers: Teachers) -> Teachers:
    """Teachers that split no class are replaced by teachers that split every class."""
    settings = {"weight": requirement.contrast, "tau": requirement.tau}
    extra_methods = {"subclass_contrast": settings} if requirement.contrast else {}
    return tuple(
        _with_subclasses(teacher, requirement.subclasses, extra_methods) for teacher in teachers
    )


def _with_subclasses(stage: Stage, subclasses: int, extra_methods: Mapping[str, Any]) -> Stage:
    if stage.subclasses == subclasses:
        return stage
    if stage.subclasses > 1:
        message = f"is {subclasses}, but {stage.label} splits every class into {stage.subclasses}"
        raise ConfigError([Problem("subclasses", f"{message}; set both to the same number")])
    operation = (
        stage.operation.split_classes(subclasses, extra_methods)
        if isinstance(stage.operation, TrainNetwork)
        else None
    )
    if operation is None:
        message = (
            f"{stage.label} is pretrained or starts from another network, so its classes cannot be "
            "split; name a teacher that is trained here from its seed, or use soft_targets"
        )
        raise ConfigError([Problem("subclasses", message)])
    return replace(stage, label=f"{stage.label}/subclasses{subclasses}", operation=operation)


# In the order of application: first the number of teachers, then what each of them gets.
_EXPANDERS: dict[type[TeacherRequirement], TeacherExpander] = {
    SeveralTeachers: _expand_several,
    SplitTeachers: _split_teachers,
    HeadedTeachers: _attach_heads,
}
